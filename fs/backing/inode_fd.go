//go:build linux

package backing

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
)

// The kernel forgets an inode when it likes, and may know more inodes than a process may have descriptors. Beyond a
// share of that limit (descriptors.go), they are not kept open but opened by handle (name_to_handle_at(2), held.go).
// That takes CAP_DAC_READ_SEARCH and a filesystem with handles. Without them the kernel is asked to forget unused inodes
// before the limit is reached (Linux 6.18).

// probeHandles determines how many descriptors there may be, and whether files can be opened by handle.
func (d *Directory) probeHandles() {
	d.ByHandle = -1
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	d.Descriptors.Limit = max(1, int(min(limit.Cur, 1<<30))-ownDescriptors)
	handle, _, err := unix.NameToHandleAt(d.Root.FD, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return
	}
	// open_by_handle_at(2) refuses an O_PATH descriptor.
	dir, err := Reopen(d.Root.FD, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	d.ByHandle = dir
	if fd, err := d.openHandle(handle); err != nil {
		unix.Close(dir)
		d.ByHandle = -1
	} else {
		unix.Close(fd)
		d.unlinkedByHandle = d.probeUnlinked()
	}
}

// probeUnlinked reports whether an open file without a name can be opened by handle.
func (d *Directory) probeUnlinked() bool {
	fd, err := unix.Openat(d.ByHandle, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return false
	}
	again, err := d.openHandle(handle)
	closeFD(again)
	return err == nil
}

// Spares reports whether h needs no descriptor of its own: the kernel passes reads and writes through to a file that it
// keeps open, and other requests open the inode.
func (d *Directory) Spares(h *Handle) bool {
	return h.Passthrough && (h.Node.FD >= 0 || d.unlinkedByHandle)
}

func (d *Directory) openHandle(handle unix.FileHandle) (fd int, err error) {
	err = Retry(func() error {
		fd, err = unix.OpenByHandleAt(d.ByHandle, handle, unix.O_PATH|unix.O_CLOEXEC)
		return err
	})
	return fd, err
}

// WithFD calls do with a descriptor of n, which is valid until do returns and may be an O_PATH descriptor.
func (d *Directory) WithFD(n *Inode, do func(fd int) error) error {
	if err := d.hold(n); err != nil {
		return err
	}
	defer n.Release()
	return do(n.PathFD())
}

func (d *Directory) Stat(n *Inode) (st unix.Stat_t, err error) {
	err = d.WithFD(n, func(fd int) error {
		st, err = StatFD(fd)
		return err
	})
	return st, err
}

// Reopen opens the file n.
func (d *Directory) Reopen(n *Inode, flags int) (opened int, err error) {
	err = d.WithFD(n, func(fd int) error {
		opened, err = Reopen(fd, flags)
		return err
	})
	return opened, err
}

// Unpinned returns the handle of a file whose descriptor is not to be kept, nil if it is to be kept.
func (d *Directory) Unpinned(fd int, st *unix.Stat_t) *unix.FileHandle {
	if d.ByHandle < 0 || st.Dev != d.Root.Key.dev ||
		d.Inodes.pinned() < d.Descriptors.share(handledShare) {
		return nil
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil
	}
	exact := unix.NewFileHandle(handle.Type(), handle.Bytes()) // the original is part of a larger buffer
	return &exact
}

const (
	// maxPruned is how many inodes the kernel is asked to forget at a time.
	maxPruned = 1 << 14
	// pruneTime is how long a lookup waits for that, in milliseconds.
	pruneTime = 100
)

// MayPin returns ENFILE if no more inodes that a user looks up may keep a descriptor. Before that the kernel is asked to
// forget some.
func (d *Directory) MayPin(uid uint32) error {
	most := d.Descriptors.pins()
	full := func() bool {
		all, theirs := d.Inodes.pinnedFor(uid)
		return theirs >= openShare*(most-all)
	}
	if most == 0 || d.Inodes.pinned() < most/2 {
		return nil
	}
	d.prune()
	for i := 0; full(); i++ {
		if i == pruneTime {
			d.prunedInVain.Store(int64(MonotonicNow()))
		}
		if i == pruneTime || d.cannotPrune.Load() || int64(MonotonicNow())-d.prunedInVain.Load() < int64(time.Second) {
			return unix.ENFILE
		}
		time.Sleep(time.Millisecond)
		d.prune()
	}
	return nil
}

// prune asks the kernel to forget unused inodes, unless that is in progress.
func (d *Directory) prune() {
	if d.cannotPrune.Load() || d.pruning.Swap(true) {
		return
	}
	go func() {
		defer d.pruning.Store(false)
		ids := d.Inodes.unused(maxPruned)
		err := d.Notify(channel.NotifyPrune, append([]uint64{uint64(len(ids)), 0}, ids...)...)
		if err == unix.EINVAL && !d.cannotPrune.Swap(true) {
			d.log.WithField("descriptors", d.Descriptors.Limit).Warn("the kernel cannot be asked to forget files (Linux 6.18): " +
				"when more of them are known than there are descriptors, further ones cannot be looked up (ENFILE)")
		}
	}()
}

// StoredHandle returns the handle to record for a file that has a descriptor or a handle, nil if none is to be
// recorded.
func (d *Directory) StoredHandle(fd int, handle *unix.FileHandle) *unix.FileHandle {
	if handle != nil || !d.storable {
		return handle
	}
	named, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil
	}
	return &named
}

// Is reports whether n is the file with a key at the entry name of the directory dirfd, or dirfd itself if name is
// empty. Without a descriptor n does not reserve its inode number, so a later file may have it.
func (n *Inode) Is(key FileKey, dirfd int, name string) bool {
	if n.Key != key || n.FD >= 0 {
		return n.Key == key
	}
	handle, _, err := unix.NameToHandleAt(dirfd, name, unix.AT_EMPTY_PATH)
	return err == nil && handle.Type() == n.handle.Type() && bytes.Equal(handle.Bytes(), n.handle.Bytes())
}

func closeFD(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}
