//go:build linux

package backing

import (
	"bytes"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel forgets an inode when it likes, and may know more of them than a process may
// have descriptors. Beyond a part of that limit (descriptors.go) files are not kept open but found by their
// handle (name_to_handle_at(2)), which takes CAP_DAC_READ_SEARCH and a filesystem that can;
// where these are missing the limit is the limit. Directories are always kept open. Before the limit is reached the
// kernel is asked to forget what nobody uses (Linux 6.18).

// probeHandles finds out how many descriptors there may be, and whether files can be opened by handle.
func (f *Directory) probeHandles() {
	f.ByHandle = -1
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return
	}
	f.Descriptors.Limit = max(1, int(min(limit.Cur, 1<<30))-ownDescriptors)
	handle, _, err := unix.NameToHandleAt(f.Root.FD, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return
	}
	// open_by_handle_at(2) does not take an O_PATH descriptor.
	dir, err := Reopen(f.Root.FD, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return
	}
	f.ByHandle = dir
	if fd, err := f.openHandle(handle); err != nil {
		unix.Close(dir)
		f.ByHandle = -1
	} else {
		unix.Close(fd)
	}
}

func (f *Directory) openHandle(handle unix.FileHandle) (fd int, err error) {
	err = Retry(func() error {
		fd, err = unix.OpenByHandleAt(f.ByHandle, handle, unix.O_PATH|unix.O_CLOEXEC)
		return err
	})
	return fd, err
}

// WithFD calls do with a descriptor of n that is good until it returns; it may be an O_PATH one.
func (f *Directory) WithFD(n *Inode, do func(fd int) error) error {
	if n.FD >= 0 {
		return do(n.FD)
	}
	fd, err := f.openHandle(*n.handle)
	if err != nil {
		return err // ESTALE if it is gone
	}
	defer unix.Close(fd)
	return do(fd)
}

func (f *Directory) Stat(n *Inode) (st unix.Stat_t, err error) {
	err = f.WithFD(n, func(fd int) error {
		st, err = StatFD(fd)
		return err
	})
	return st, err
}

// Reopen opens the file n.
func (f *Directory) Reopen(n *Inode, flags int) (opened int, err error) {
	err = f.WithFD(n, func(fd int) error {
		opened, err = Reopen(fd, flags)
		return err
	})
	return opened, err
}

// Unpinned returns the handle of a file for which no descriptor is to be kept; nil if it is to be
// kept.
func (f *Directory) Unpinned(fd int, st *unix.Stat_t) *unix.FileHandle {
	if f.ByHandle < 0 || st.Mode&unix.S_IFMT == unix.S_IFDIR || st.Dev != f.Root.Key.dev || f.Inodes.pinned() < f.Descriptors.share(handledShare) {
		return nil
	}
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil
	}
	exact := unix.NewFileHandle(handle.Type(), handle.Bytes()) // what it is in is larger
	return &exact
}

const (
	// maxPruned is how many inodes the kernel is asked to forget at a time.
	maxPruned = 1 << 14
	// pruneTime is how long a lookup waits for it, in milliseconds.
	pruneTime = 100
)

// MayPin returns ENFILE if no more inodes may keep a descriptor. In time the kernel is asked to forget some.
func (f *Directory) MayPin() error {
	most := f.Descriptors.share(pinnedShare)
	if most == 0 || f.Inodes.pinned() < most*3/4 {
		return nil
	}
	f.prune()
	for i := 0; f.Inodes.pinned() >= most; i++ {
		if f.cannotPrune.Load() || i == pruneTime {
			return unix.ENFILE
		}
		time.Sleep(time.Millisecond)
		f.prune()
	}
	return nil
}

// prune asks the kernel to forget what nobody uses, unless that is being done already.
func (f *Directory) prune() {
	if f.cannotPrune.Load() || f.pruning.Swap(true) {
		return
	}
	go func() {
		defer f.pruning.Store(false)
		ids := f.Inodes.unused(maxPruned)
		if err := f.Notify(notifyPrune, append([]uint64{uint64(len(ids)), 0}, ids...)...); err == unix.EINVAL && !f.cannotPrune.Swap(true) {
			f.log.WithField("descriptors", f.Descriptors.Limit).Warn("the kernel cannot be asked to forget files (Linux 6.18): when more of them " +
				"are known than there are descriptors, further ones cannot be looked up (ENFILE)")
		}
	}()
}

// StoredHandle is the handle to be written down with a file that has a descriptor or a handle.
func (f *Directory) StoredHandle(fd int, handle *unix.FileHandle) *unix.FileHandle {
	if handle != nil || !f.storable {
		return handle
	}
	named, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil
	}
	return &named
}

// Is reports whether n is the file with that key at the entry name of the directory dirfd, or dirfd itself
// if name is empty. Without a descriptor n does not keep its number, so a later file may have it.
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
