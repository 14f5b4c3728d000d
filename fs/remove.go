//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
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
	st, err := statEntry(oldDir.fd, oldName)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR || in.Flags&unix.RENAME_EXCHANGE != 0 && f.isDirectory(newDir, newName) {
		return status(f.renameTree(oldDir, oldName, newDir, newName, in.Flags&unix.RENAME_EXCHANGE != 0, rename))
	}
	if f.isLockName(oldName) || f.isLockName(newName) {
		return status(f.renameLock(oldDir, oldName, newDir, newName, in, rename))
	}
	return status(rename())
}

func (f *FS) isDirectory(dir *inode, name string) bool {
	st, err := statEntry(dir.fd, name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// renameTree renames a directory, or exchanges one for something, and keeps the table's
// and the store's idea of what is beneath them.
func (f *FS) renameTree(oldDir *inode, oldName string, newDir *inode, newName string, exchange bool, rename func() error) error {
	return f.locks.MoveTree(exchange, func() (string, string, error) {
		// Under the store's lock no other directory moves, so these stay true.
		oldPath, newPath := f.inodes.path(oldDir, oldName), f.inodes.path(newDir, newName)
		if err := rename(); err != nil {
			return "", "", err
		}
		f.moved(newDir, newName)
		if exchange {
			f.moved(oldDir, oldName)
		}
		return oldPath, newPath, nil
	})
}

// moved records where the file at an entry is now, if that has to be known: of a
// directory, and at a lock name.
func (f *FS) moved(dir *inode, name string) {
	st, err := statEntry(dir.fd, name)
	if err != nil {
		return
	}
	f.inodes.mu.Lock()
	defer f.inodes.mu.Unlock()
	if n := f.inodes.byKey[keyOf(&st)]; n != nil && n != f.root && (n.isDir() || f.isLockName(name)) {
		n.parent, n.name = dir, name
	}
}
