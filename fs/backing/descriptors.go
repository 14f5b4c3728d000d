//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// If the limit of descriptors (RLIMIT_NOFILE) is low, as in a container without CAP_SYS_RESOURCE, the kernel has more
// files open and knows more inodes than the process may have descriptors. The limit is divided, so that no user can
// take all of it. Beyond a share the answer is ENFILE:
//
//   - Files and directories that are not open keep at most an eighth of the limit where they can be opened by handle;
//     beyond it they are (inode_fd.go). Where they cannot, they have at most five eighths and at least two. Before they
//     reach that, the kernel is asked to forget some.
//   - An open file takes one descriptor, unless the kernel passes its reads and writes through and it can be opened by
//     handle. A user may have openShare times as many as are left for all.
//   - The last eighth is reserved for files at lock names, for removals and for .latchfs.

const (
	// These shares are in eighths of the limit.
	handledShare, leastPinnedShare, pinnedShare, reservedShare = 1, 2, 5, 1
	// openShare is how many descriptors a user may have for each one that is left.
	openShare = 4
	// ownDescriptors is how many the server itself needs.
	ownDescriptors = 64
)

// descriptors counts the descriptors that are open on behalf of users.
type descriptors struct {
	Limit int // of all descriptors, those of inodes included; 0 if it is unknown

	mu      sync.Mutex
	open    int
	byUser  map[uint32]int
	refused uint64
}

// share returns a number of eighths of the limit.
func (d *descriptors) share(eighths int) int { return d.Limit / 8 * eighths }

// admit returns ENFILE if a user may not open another file, at a lock name or not. inodes is how many descriptors
// inodes have.
func (d *descriptors) admit(uid uint32, lockNamed bool, inodes int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.left(inodes)
	if !lockNamed {
		left -= d.share(reservedShare)
	}
	if d.Limit > 0 && d.byUser[uid] >= openShare*left {
		d.refused++
		return unix.ENFILE
	}
	return nil
}

// spares reports whether a user may have another descriptor that only saves time. Such descriptors keep no other file
// from being opened.
func (d *descriptors) spares(uid uint32, inodes int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.Limit == 0 || openShare*d.byUser[uid] < d.left(inodes)-d.share(reservedShare)
}

// left returns how many descriptors are left for open files. mu is held.
func (d *descriptors) left(inodes int) int {
	return d.Limit - max(inodes, d.share(leastPinnedShare)) - d.open
}

// pins returns how many inodes may have a descriptor.
func (d *descriptors) pins() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.share(leastPinnedShare), min(d.share(pinnedShare), d.Limit-d.open-d.share(reservedShare)))
}

// Took counts a descriptor that is open for a user.
func (d *descriptors) Took(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byUser == nil {
		d.byUser = make(map[uint32]int)
	}
	d.byUser[uid]++
	d.open++
}

// gave uncounts a descriptor.
func (d *descriptors) gave(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.byUser[uid]--; d.byUser[uid] == 0 {
		delete(d.byUser, uid)
	}
}

// OpenFiles returns how many open files and directories of the mount have a descriptor here.
func (d *Directory) OpenFiles() int {
	d.Descriptors.mu.Lock()
	defer d.Descriptors.mu.Unlock()
	return d.Descriptors.open
}

// MayOpen returns ENFILE if the caller of in may not open another file, at a lock name or not.
func (d *Directory) MayOpen(in *fuse.InHeader, lockNamed bool) error {
	err := d.Descriptors.admit(in.Uid, lockNamed, d.Inodes.pinned())
	if err != nil {
		d.prune() // there may be more next time
	}
	return err
}

// OpenRefusals returns how often a user was refused an open file (ENFILE).
func (d *Directory) OpenRefusals() uint64 {
	d.Descriptors.mu.Lock()
	defer d.Descriptors.mu.Unlock()
	return d.Descriptors.refused
}
