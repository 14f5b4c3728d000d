//go:build linux

package handover

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// TakeOver takes every descriptor of the server before from its descriptor keeper and records it in this server's
// column. It starts the descriptor keeper of this server, which ends with the process supervisor. The caller calls
// Activate when it has rebuilt its own state.
//
// If lost, the descriptor keeper has ended and its descriptors are gone, but for those that the caller has by other
// means: it opens them again and records them.
func (t *Tables) TakeOver(supervisor int, lost bool) error {
	from, to := t.activeColumn(), t.column
	// A server that died during TakeOver has left a keeper in this column.
	if pidfd := openKeeper(&t.Head.keepers[to]); pidfd >= 0 {
		kill(pidfd)
		unix.Close(pidfd)
	}
	t.Head.keepers[to].pid.Store(0)
	if lost {
		t.awaitKeeper(&t.Head.keepers[from])
	} else if t.predecessor = openKeeper(&t.Head.keepers[from]); t.predecessor < 0 {
		return ErrNoDescriptorKeeper
	}
	// Start it early: there is little memory to copy yet.
	if err := t.StartKeeper(supervisor); err != nil {
		return err
	}
	var failed error
	take := func(pair *DescriptorPair) {
		fd := -1
		if number := int(pair[from].Load()) - 1; number >= 0 && !lost {
			taken, err := unix.PidfdGetfd(t.predecessor, number, 0)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("take descriptor %d: %w", number, err))
			} else {
				fd = taken
			}
		}
		t.Set(pair, fd)
	}
	take(&t.Head.Device)
	t.Inodes.Each(func(row *InodeRow) {
		if row.ID.Load() != 0 {
			take(&row.FD)
		}
	})
	t.Handles.Each(func(row *HandleRow) {
		if row.ID.Load() != 0 {
			take(&row.FD)
		}
	})
	t.Watches.rows.Each(func(row *watchRow) {
		if row.pid.Load() != 0 {
			take(&row.fd)
		}
	})
	t.Watches.inherit()
	return failed
}

// awaitKeeper waits for a descriptor keeper and its server to end. They end with the keeper's supervisor, but not at
// the same moment.
func (t *Tables) awaitKeeper(row *keeperRow) {
	for _, pid := range []uint64{row.pid.Load(), row.server.Load()} {
		if pidfd, err := unix.PidfdOpen(int(pid), 0); err == nil {
			awaitEnd(pidfd)
			unix.Close(pidfd)
		}
	}
}

// Activate makes this server's column the active one: from now on the mount outlives this server. It ends the
// descriptor keeper of the server before, which frees the state directory.
func (t *Tables) Activate() {
	t.Head.active.Store(uint32(t.column) + 1)
	if t.predecessor >= 0 {
		kill(t.predecessor)
		unix.Close(t.predecessor)
		t.predecessor = -1
	}
}
