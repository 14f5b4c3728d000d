//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/control"
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
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	if dir == f.Root && name == control.Name {
		return refuse(in.NodeId)
	}
	if f.isUnlinker(in) {
		return status(f.removeTombstone(dir, name))
	}
	if err := f.admitWithin(dir, in); err != nil {
		return status(err)
	}
	op := opUnlink
	if flags != 0 {
		op = opRmdir
		f.KeepHeld(dir, name)
	}
	i := f.beginEntry(in, op, name)
	do := func() error {
		unlink := func() error { return unix.Unlinkat(dir.PathFD(), name, flags) }
		return i.once(func() error { return backing.Retry(unlink) }, is(unix.ENOENT))
	}
	if f.IsLockName(name) {
		return status(f.removeLock(dir, name, in, do))
	}
	return status(do())
}

// Rename implements fuse.RawFileSystem.
func (f *FS) Rename(_ <-chan struct{}, in *fuse.RenameIn, oldName, newName string) fuse.Status {
	oldDir, code := f.heldDir(in.NodeId)
	if oldDir == nil {
		return code
	}
	defer oldDir.Release()
	newDir, code := f.heldDir(in.Newdir)
	if newDir == nil {
		return code
	}
	defer newDir.Release()
	if oldDir == f.Root && oldName == control.Name ||
		newDir == f.Root && newName == control.Name {
		return refuse(in.NodeId)
	}
	st, statErr := backing.StatEntry(oldDir.PathFD(), oldName)
	i := f.begin(&in.InHeader, opRename)
	if !i.Again {
		i.SetRename(in.NodeId, oldName, in.Newdir, newName, in.Flags, st.Dev, st.Ino)
		i.Commit(in.Unique &^ backing.UniqueResent)
	}
	f.KeepHeld(newDir, newName)
	rename := func() error {
		do := func() error {
			return unix.Renameat2(oldDir.PathFD(), oldName, newDir.PathFD(), newName, uint(in.Flags))
		}
		if in.Flags&unix.RENAME_WHITEOUT != 0 {
			return f.credentials.As(in.Caller, do) // it makes a file
		}
		return backing.Retry(do)
	}
	for _, dir := range []*backing.Inode{oldDir, newDir} {
		if err := f.admitWithin(dir, &in.InHeader); err != nil {
			return status(err)
		}
	}
	r := renaming{
		intent: i, oldDir: oldDir, oldName: oldName, newDir: newDir, newName: newName,
		exchange: in.Flags&unix.RENAME_EXCHANGE != 0, caller: f.caller(&in.InHeader),
	}
	r.do = func() error { return i.once(rename, never) }
	defer i.Close()
	var err error
	switch {
	case i.Again && f.wasRenamed(i, oldDir, newDir):
		f.finishRename(r)
	case statErr == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR || r.exchange && f.isDirectory(newDir, newName):
		err = f.renameTree(r)
	case f.IsLockName(oldName) || f.IsLockName(newName):
		err = f.renameLock(r)
	default:
		err = r.do()
	}
	if err == nil {
		f.changedWithin(newDir)
	}
	return status(err)
}

// wasRenamed reports whether a dead server carried out the rename of an intent.
func (f *FS) wasRenamed(i intent, oldDir, newDir *backing.Inode) bool {
	r, ok := i.Rename()
	return ok && f.Renamed(r, oldDir, newDir)
}

// finishRename records a rename that a dead server carried out. The store knows of it already, except for the two
// entries (Options.Renames).
func (f *FS) finishRename(r renaming) {
	if f.IsLockName(r.oldName) {
		nameLock := f.enter(r.oldDir, r.oldName)
		if r.exchange {
			nameLock.Replaced(r.caller)
		} else {
			nameLock.Release()
		}
		nameLock.Leave()
	}
	if f.IsLockName(r.newName) {
		nameLock := f.enter(r.newDir, r.newName)
		if nameLock.Held() && nameLock.Generation() == r.intent.Generation() {
			nameLock.Made()
		} else {
			nameLock.Replaced(r.caller)
		}
		nameLock.Leave()
	}
	f.Moved(r.newDir, r.newName)
	if r.exchange {
		f.Moved(r.oldDir, r.oldName)
	}
	r.intent.finish(0, nil)
}

func (f *FS) isDirectory(dir *backing.Inode, name string) bool {
	st, err := backing.StatEntry(dir.PathFD(), name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// renameTree renames a directory, or exchanges one with another file, and moves the records of the locks beneath
// them.
func (f *FS) renameTree(r renaming) error {
	return f.locks.MoveTree(r.exchange, func(at func(string) lockstore.NameLock) (string, string, error) {
		// Under the store's lock no other directory is renamed, so these paths stay true.
		oldPath, newPath := f.Inodes.Path(r.oldDir, r.oldName), f.Inodes.Path(r.newDir, r.newName)
		var from, to lockstore.NameLock
		if f.IsLockName(r.oldName) {
			from = at(oldPath)
		}
		if f.IsLockName(r.newName) {
			to = at(newPath)
		}
		return oldPath, newPath, f.renameIn(from, to, r)
	})
}
