//go:build linux

package fs

import (
	"errors"
	"fmt"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// lockFiles is the directory beneath as the store sees it.
type lockFiles struct{ fs *FS }

var _ lockstore.Files = lockFiles{}

// LockFiles is what the store is to work on.
func (f *FS) LockFiles() lockstore.Files { return lockFiles{f} }

func unixTime(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }

// beneath calls do with a descriptor of the directory that name is in and the last
// component of name.
func (l lockFiles) beneath(name string, do func(dirfd int, base string) error) error {
	dir, base := path.Split(name)
	if dir == "" {
		return do(l.fs.root.fd, base)
	}
	fd, err := openBeneath(l.fs.root.fd, path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	return do(fd, base)
}

// Stat implements lockstore.Files.
func (l lockFiles) Stat(name string) (file lockstore.File, err error) {
	err = l.beneath(name, func(dirfd int, base string) error {
		st, err := statEntry(dirfd, base)
		if err == nil {
			file = fileOf(&st)
		}
		return err
	})
	return file, err
}

// Read implements lockstore.Files.
func (l lockFiles) Read(name string, limit int) (text []byte, err error) {
	err = l.beneath(name, func(dirfd int, base string) error {
		// O_NONBLOCK: should it have become a FIFO, nothing is to wait here.
		fd, err := openBeneath(dirfd, base, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		text = make([]byte, limit)
		var n int
		err = retry(func() error {
			n, err = unix.Pread(fd, text, 0)
			return err
		})
		text = text[:max(n, 0)]
		return err
	})
	return text, err
}

// Remove implements lockstore.Files.
func (l lockFiles) Remove(name string) error {
	err := l.beneath(name, func(dirfd int, base string) error {
		return retry(func() error { return unix.Unlinkat(dirfd, base, 0) })
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// Invalidate implements lockstore.Files.
func (l lockFiles) Invalidate(name string) {
	_ = l.beneath(name, func(dirfd int, base string) error {
		st, err := statFD(dirfd)
		if err != nil {
			return err
		}
		// A directory the kernel does not know has no entries cached. ENOENT is
		// answered when it has not cached this one.
		if id := l.fs.inodes.idOf(keyOf(&st)); id != 0 && l.fs.server != nil {
			l.fs.server.EntryNotify(id, base)
		}
		return nil
	})
}

// Local implements lockstore.Files.
func (l lockFiles) Local() bool { return l.fs.local }
