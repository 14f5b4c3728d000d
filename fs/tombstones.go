//go:build linux

package fs

import (
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// isUnlinker reports whether a request is from the process of the inotify notifier.
func (f *FS) isUnlinker(in *fuse.InHeader) bool {
	return f.notifier.calls(in.Pid, in.Unique&uniqueResent != 0)
}

// lookupTombstone shows the notifier's process the tombstone of a name, if no file is there.
func (f *FS) lookupTombstone(dir *inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	path := f.inodes.path(dir, name)
	t := f.notifier.tombstone(path)
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) || t == nil {
		return f.lookupIn(nameLock, dir, name, in, out)
	}
	mode := uint32(unix.S_IFREG | 0o600)
	if t.Directory {
		mode = unix.S_IFDIR | 0o700
	}
	if n := f.inodes.get(t.Node); n != nil && f.inodes.again(n, in.Unique) {
		out.NodeId, mode = n.id, n.kind|0o600
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
func (f *FS) removeTombstone(dir *inode, name string) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) {
		return unix.EBUSY
	}
	path := f.inodes.path(dir, name)
	t := f.notifier.tombstone(path)
	if t == nil {
		return unix.ENOENT
	}
	f.notifier.lay(path, t)
	return nil
}
