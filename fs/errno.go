//go:build linux

package fs

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/lockstore"
)

// status returns the answer to the kernel for an error. No other function turns errors into errnos.
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
		return fuse.Status(syscall.ENFILE) // latchfs has no descriptor left, not the caller
	case errors.As(err, &errno):
		return fuse.Status(errno)
	case errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	}
	return fuse.EIO
}
