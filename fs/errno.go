//go:build linux

package fs

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/lockstore"
)

// status turns an error into what the kernel is answered. It is the only place
// that does.
func status(err error) fuse.Status {
	var errno syscall.Errno
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, lockstore.ErrHeld):
		return fuse.EBUSY
	case errors.Is(err, lockstore.ErrExists), errors.Is(err, lockstore.ErrReserved):
		return fuse.Status(syscall.EEXIST)
	case errors.Is(err, lockstore.ErrInterrupted):
		return fuse.EINTR
	case errors.Is(err, lockstore.ErrNoLock):
		return fuse.ENOENT
	case errors.Is(err, lockstore.ErrNotOperator):
		return fuse.EACCES
	case errors.Is(err, lockstore.ErrNoSpace):
		return fuse.Status(syscall.ENOSPC)
	case errors.Is(err, lockstore.ErrTooMany):
		return fuse.Status(syscall.EDQUOT)
	case errors.Is(err, syscall.EMFILE):
		return fuse.Status(syscall.ENFILE) // this process has no descriptor left; the caller may have
	case errors.As(err, &errno):
		return fuse.Status(errno)
	case errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	}
	return fuse.EIO
}
