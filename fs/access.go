//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/fs/backing"
)

// newAccess returns the checker of the backing directory.
func (f *FS) newAccess() *access.Checker {
	return access.New(func(dir string) (int, error) {
		return backing.OpenBeneath(f.Root.FD, dir, unix.O_PATH|unix.O_DIRECTORY)
	}, func(tid int) ([]uint32, error) { return f.callers.Groups(tid) })
}

// mayRemove reports whether the caller may remove the name of the file n from its directory. It reports false if the
// caller's user is not root and the directory is not known.
func (f *FS) mayRemove(in *fuse.InHeader, n *backing.Inode) bool {
	dir := f.Inodes.ParentOf(n)
	if in.Uid == 0 || dir == nil {
		return in.Uid == 0
	}
	caller := f.access.Caller(in)
	var st unix.Stat_t
	err := f.WithFD(dir, func(fd int) (err error) {
		st, err = caller.Permitted(fd, unix.W_OK|unix.X_OK)
		return err
	})
	if err != nil || st.Mode&unix.S_ISVTX == 0 || st.Uid == caller.UID {
		return err == nil
	}
	st, err = f.Stat(n)
	return err == nil && st.Uid == caller.UID
}
