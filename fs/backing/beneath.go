//go:build linux

package backing

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// LockFiles is the directory as the store of the locks uses it. Names are paths in the mount.
type LockFiles struct{ dir *Directory }

var _ lockstore.Files = LockFiles{}

// LockFiles returns the files on which the store works.
func (d *Directory) LockFiles() LockFiles { return LockFiles{d} }

func unixTime(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }

// Beneath calls do with a descriptor of the directory that contains name, and the last component of name.
func (l LockFiles) Beneath(name string, do func(dirfd int, base string) error) error {
	dir, base := path.Split(name)
	if dir == "" {
		return do(l.dir.Root.FD, base)
	}
	fd, err := OpenBeneath(l.dir.Root.FD, path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	return do(fd, base)
}

// Stat implements lockstore.Files.
func (l LockFiles) Stat(name string) (lockstore.File, error) {
	file, _, err := l.Inode(name)
	return file, err
}

// Identity implements lockstore.Files. The identity is the file handle, which no other file gets. If the filesystem
// has no handles, it is the inode number and the time of birth.
func (l LockFiles) Identity(name string) (identity string, err error) {
	err = l.Beneath(name, func(dirfd int, base string) error {
		handle, _, err := unix.NameToHandleAt(dirfd, base, 0)
		if err == nil {
			identity = fmt.Sprintf("%d:%x", handle.Type(), handle.Bytes())
			return nil
		} else if errors.Is(err, unix.ENOENT) {
			return err
		}
		var st unix.Statx_t
		err = unix.Statx(dirfd, base, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
		identity = fmt.Sprintf("%d born %d.%09d", st.Ino, st.Btime.Sec, st.Btime.Nsec)
		return err
	})
	return identity, err
}

// Open implements lockstore.Files.
func (l LockFiles) Open(name string) (file io.ReadCloser, err error) {
	err = l.Beneath(name, func(dirfd int, base string) error {
		// O_NONBLOCK: if the file has become a FIFO, the open must not wait.
		const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
		// The look at a lock is no access of its user. Only root and the file's owner may open with O_NOATIME.
		fd, err := OpenBeneath(dirfd, base, flags|unix.O_NOATIME)
		if err == unix.EPERM {
			fd, err = OpenBeneath(dirfd, base, flags)
		}
		if err == nil {
			file = &rawFile{fd: fd}
		}
		return err
	})
	return file, err
}

// rawFile reads a regular file from its beginning. An os.File would first try to register the file with the poller,
// which costs more than to read a lock.
type rawFile struct {
	fd     int
	offset int64
}

func (f *rawFile) Read(p []byte) (n int, err error) {
	err = Retry(func() error {
		n, err = unix.Pread(f.fd, p, f.offset)
		return err
	})
	if n = max(n, 0); n < len(p) && err == nil {
		err = io.EOF
	}
	f.offset += int64(n)
	return n, err
}

func (f *rawFile) Close() error { return unix.Close(f.fd) }

// Readlink implements lockstore.Files.
func (l LockFiles) Readlink(name string) (text string, err error) {
	err = l.Beneath(name, func(dirfd int, base string) error {
		target, err := Readlink(dirfd, base)
		text = string(target)
		return err
	})
	return text, err
}

// Entries implements lockstore.Files.
func (l LockFiles) Entries(name string, limit int) (names []string, err error) {
	err = l.Directory(name, func(dir *os.File) error {
		names, err = dir.Readdirnames(limit + 1)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return err
	})
	return names, err
}

// Directory calls do with the open directory at name.
func (l LockFiles) Directory(name string, do func(*os.File) error) error {
	return l.Beneath(name, func(dirfd int, base string) error {
		fd, err := OpenBeneath(dirfd, base, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		dir := os.NewFile(uintptr(fd), name)
		defer dir.Close()
		return do(dir)
	})
}

// Remove implements lockstore.Files.
func (l LockFiles) Remove(name string) error {
	err := l.takeAway(name, func() error {
		err := l.unlink(name, 0)
		if errors.Is(err, unix.EISDIR) {
			err = l.removeDirectory(name)
		}
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// takeAway has do remove the file at name from the directory. A request for the entry that the kernel has cached gets
// ESTALE, even if this server is killed in between, and watchers are told.
func (l LockFiles) takeAway(name string, do func() error) error {
	file, n, _ := l.Inode(name)
	if n != nil {
		n.SetTakenAway(true)
	}
	if err := do(); err != nil {
		if n != nil {
			n.SetTakenAway(false)
		}
		return err
	}
	if n != nil {
		l.dir.ForgetAttributes(n)
	}
	if l.dir.reapedFile != nil {
		node := uint64(0)
		if n != nil {
			node = n.ID
		}
		l.dir.reapedFile(name, node, file.Type == lockstore.Directory)
	}
	return nil
}

func (l LockFiles) unlink(name string, flags int) error {
	return l.Beneath(name, func(dirfd int, base string) error {
		return Retry(func() error { return unix.Unlinkat(dirfd, base, flags) })
	})
}

func (l LockFiles) removeDirectory(name string) error {
	err := l.Directory(name, func(dir *os.File) error {
		names, err := dir.Readdirnames(-1)
		for _, entry := range names {
			if err == nil {
				err = Retry(func() error { return unix.Unlinkat(int(dir.Fd()), entry, 0) })
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return l.unlink(name, unix.AT_REMOVEDIR)
}

// Move implements lockstore.Files.
func (l LockFiles) Move(name, path string) error {
	return l.takeAway(name, func() error {
		return l.Beneath(name, func(dirfd int, base string) error {
			return Retry(func() error {
				return unix.Renameat2(dirfd, base, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
			})
		})
	})
}

// Opened implements lockstore.Files.
func (l LockFiles) Opened(name string) bool {
	_, n, _ := l.Inode(name)
	return n != nil && n.Opens.Any()
}

// Inode returns the file at name and its inode, nil if the kernel does not know it.
func (l LockFiles) Inode(name string) (file lockstore.File, n *Inode, err error) {
	err = l.Beneath(name, func(dirfd int, base string) error {
		st, err := StatEntry(dirfd, base)
		if err == nil {
			file, n = FileOf(&st), l.dir.Inodes.Peek(KeyOf(&st), dirfd, base)
		}
		return err
	})
	return file, n, err
}

// Local implements lockstore.Files.
func (l LockFiles) Local() bool { return l.dir.Local }

func FileOf(st *unix.Stat_t) lockstore.File {
	written, changed := unixTime(st.Mtim), unixTime(st.Ctim)
	if written.After(changed) {
		changed = written
	}
	file := lockstore.File{
		ID:   lockstore.FileID{Device: st.Dev, Inode: st.Ino},
		Size: st.Size, UID: st.Uid,
		Written: written, Changed: changed,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		file.Type = lockstore.Regular
	case unix.S_IFDIR:
		file.Type = lockstore.Directory
	case unix.S_IFLNK:
		file.Type = lockstore.Symlink
	}
	return file
}

// IsAt reports whether n is the file at path.
func (d *Directory) IsAt(n *Inode, path string) (is bool) {
	_ = LockFiles{d}.Beneath(path, func(dirfd int, base string) error {
		st, err := StatEntry(dirfd, base)
		is = err == nil && n.Is(KeyOf(&st), dirfd, base)
		return err
	})
	return is
}

// Moved records the new place of the file at an entry, if the place matters: for a directory, at a lock name, and in
// a directory at a lock name.
func (d *Directory) Moved(dir *Inode, name string) {
	st, err := StatEntry(dir.PathFD(), name)
	if err != nil {
		return
	}
	n := d.Inodes.Peek(KeyOf(&st), dir.PathFD(), name)
	if n == nil || n == d.Root {
		return
	}
	if lockNamed := d.IsLockName(name); n.IsDir() || lockNamed || dir.LockNamed() {
		d.Inodes.Place(n, dir, name, lockNamed)
	} else {
		n.setLockNamed(false)
	}
}
