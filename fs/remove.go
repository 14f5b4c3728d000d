//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// Unlink implements fuse.RawFileSystem.
func (f *FS) Unlink(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in, name, 0)
}

// Rmdir implements fuse.RawFileSystem.
func (f *FS) Rmdir(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return f.remove(in, name, unix.AT_REMOVEDIR)
}

func (f *FS) remove(in *fuse.InHeader, name string, flags int) fuse.Status {
	dir := f.inodes.get(in.NodeId)
	if dir == nil || dir == f.root && name == controlName {
		return f.control.refuse(in.NodeId)
	}
	if err := f.admitWithin(dir, in); err != nil {
		return status(err)
	}
	if f.isLockName(name) {
		return status(f.removeLock(dir, name, flags, in))
	}
	return status(retry(func() error { return unix.Unlinkat(dir.fd, name, flags) }))
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	oldDir, newDir := f.inodes.get(in.NodeId), f.inodes.get(in.Newdir)
	if oldDir == nil || newDir == nil || oldDir == f.root && oldName == controlName || newDir == f.root && newName == controlName {
		return f.control.refuse(in.NodeId)
	}
	rename := func() error {
		do := func() error { return unix.Renameat2(oldDir.fd, oldName, newDir.fd, newName, uint(in.Flags)) }
		if in.Flags&unix.RENAME_WHITEOUT != 0 {
			return f.credentials.as(in.Caller, do) // it makes a file
		}
		return retry(do)
	}
	for _, dir := range []*inode{oldDir, newDir} {
		if err := f.admitWithin(dir, &in.InHeader); err != nil {
			return status(err)
		}
	}
	r := renaming{
		oldDir: oldDir, oldName: oldName, newDir: newDir, newName: newName,
		exchange: in.Flags&unix.RENAME_EXCHANGE != 0, who: f.caller(&in.InHeader), do: rename,
	}
	st, err := statEntry(oldDir.fd, oldName)
	switch {
	case err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR || r.exchange && f.isDirectory(newDir, newName):
		err = f.renameTree(r)
	case f.isLockName(oldName) || f.isLockName(newName):
		err = f.renameLock(r)
	default:
		err = rename()
	}
	if err == nil {
		f.changedWithin(newDir)
	}
	return status(err)
}

func (f *FS) isDirectory(dir *inode, name string) bool {
	st, err := statEntry(dir.fd, name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// renameTree renames a directory, or exchanges one for something, and keeps the table's
// and the store's idea of what is beneath them.
func (f *FS) renameTree(r renaming) error {
	return f.locks.MoveTree(r.exchange, func(at func(string) lockstore.Section) (string, string, error) {
		// Under the store's lock no other directory moves, so these stay true.
		oldPath, newPath := f.inodes.path(r.oldDir, r.oldName), f.inodes.path(r.newDir, r.newName)
		var from, to lockstore.Section
		if f.isLockName(r.oldName) {
			from = at(oldPath)
		}
		if f.isLockName(r.newName) {
			to = at(newPath)
		}
		return oldPath, newPath, f.renameIn(from, to, r)
	})
}

// moved records where the file at an entry is now, if that has to be known: of a
// directory, and at a lock name.
func (f *FS) moved(dir *inode, name string) {
	st, err := statEntry(dir.fd, name)
	if err != nil {
		return
	}
	n := f.inodes.peek(keyOf(&st))
	if n == nil || n == f.root {
		return
	}
	if lockNamed := f.isLockName(name); n.isDir() || lockNamed || dir.lockNamed.Load() {
		f.inodes.place(n, dir, name, lockNamed)
	} else {
		n.lockNamed.Store(false)
	}
}
