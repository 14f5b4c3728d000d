//go:build linux

package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// isUnlinker reports whether a request is from the process of the inotify notifier.
func (f *FS) isUnlinker(in *fuse.InHeader) bool {
	return f.notifier.Calls(in.Pid, in.Unique&backing.UniqueResent != 0)
}

// lookupTombstone shows the notifier's process the tombstone of a name, if no file is there.
func (f *FS) lookupTombstone(dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	path := f.Inodes.Path(dir, name)
	t := f.notifier.Tombstone(path)
	if _, err := backing.StatEntry(dir.PathFD(), name); !errors.Is(err, unix.ENOENT) || t == nil {
		return f.lookupIn(nameLock, dir, name, in, out)
	}
	mode := uint32(unix.S_IFREG | 0o600)
	if t.Directory {
		mode = unix.S_IFDIR | 0o700
	}
	if n := f.Inodes.Get(t.Node); n != nil && f.Inodes.Again(n, in.Unique) {
		out.NodeId, mode = n.ID, n.Kind|0o600
	} else if id, ok := f.control.Tombstone(path, mode, in.Unique); ok {
		out.NodeId = id
	} else {
		return unix.ENOENT
	}
	out.Attr = fuse.Attr{Ino: ^uint64(0) - out.NodeId, Nlink: 1, Mode: mode, Owner: in.Caller.Owner}
	return nil
}

// removeTombstone lets the notifier's process unlink a tombstone, and nothing else. If it got ENOENT, the kernel would
// forget the entry, and a process that has the file open would seem to have a deleted one.
func (f *FS) removeTombstone(dir *backing.Inode, name string) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	if _, err := backing.StatEntry(dir.PathFD(), name); !errors.Is(err, unix.ENOENT) {
		return unix.EBUSY
	}
	path := f.Inodes.Path(dir, name)
	t := f.notifier.Tombstone(path)
	if t == nil {
		return unix.ENOENT
	}
	f.notifier.Lay(path, t)
	return nil
}
