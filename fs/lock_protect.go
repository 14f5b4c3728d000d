//go:build linux

package fs

import (
	"errors"
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// removeLock removes the entry at a lock name: first the file, then the record.
func (f *FS) removeLock(dir *backing.Inode, name string, in *fuse.InHeader, do func() error) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	if err := f.admitEntry(nameLock, dir, name, f.caller(in), lockstore.Removing); err != nil {
		return err
	}
	held := nameLock.Held()
	err := do()
	if err == nil || errors.Is(err, unix.ENOENT) {
		nameLock.Release()
		f.usualLocks.set(f.Inodes.Path(dir, name), held)
	}
	return err
}

// admitEntry returns nil if the caller may remove or rename the entry at a lock name. An entry that has no judgment
// yet is judged first.
func (f *FS) admitEntry(
	nameLock lockstore.NameLock, dir *backing.Inode, name string, caller func() bootid.Process, attempt lockstore.Attempt,
) error {
	if !nameLock.Held() {
		if _, err := f.lookEntry(nameLock, dir, name); err != nil {
			return err
		}
	}
	return nameLock.Admit(caller, attempt)
}

// renaming is a rename(2) between two entries.
type renaming struct {
	intent           intent
	oldDir, newDir   *backing.Inode
	oldName, newName string
	exchange         bool
	caller           func() bootid.Process
	do               func() error
}

// renameLock renames a file from or onto a lock name, or both.
func (f *FS) renameLock(r renaming) error {
	var from, to lockstore.NameLock
	switch oldLock, newLock := f.IsLockName(r.oldName), f.IsLockName(r.newName); {
	case r.oldDir == r.newDir && r.oldName == r.newName:
		return r.do()
	case oldLock && newLock:
		from, to = f.enterBoth(r.oldDir, r.oldName, r.newDir, r.newName)
		defer from.Leave()
		defer to.Leave()
	case oldLock:
		from = f.enter(r.oldDir, r.oldName)
		defer from.Leave()
	default:
		to = f.enter(r.newDir, r.newName)
		defer to.Leave()
	}
	return f.renameIn(from, to, r)
}

// renameIn carries out a rename within the name locks of its names. A name that is no lock name has the zero
// NameLock.
func (f *FS) renameIn(from, to lockstore.NameLock, r renaming) error {
	atLock, ontoLock := from != lockstore.NameLock{}, to != lockstore.NameLock{}
	if atLock {
		if err := f.admitEntry(from, r.oldDir, r.oldName, r.caller, lockstore.Renaming); err != nil {
			return err
		}
	}
	acquired := false
	if ontoLock {
		free, err := f.admitReplacement(to, r)
		if err != nil {
			return err
		}
		// A lock that is renamed stays the same lock.
		if acquired = free && !r.exchange && !(atLock && from.Held()); acquired {
			if _, err := to.Acquire(verdict.KindRename, r.caller()); errors.Is(err, lockstore.ErrReserved) {
				return fmt.Errorf("%w: %w", lockstore.ErrHeld, err) // EEXIST is not for rename(2)
			} else if err != nil {
				return err
			}
			r.intent.SetGeneration(to.Generation())
		}
	}
	if err := r.do(); err != nil {
		if acquired {
			to.Release()
		}
		return err
	}
	switch {
	case acquired:
		to.Made()
	case ontoLock && (r.exchange || !atLock || !from.Held()):
		to.Replaced(r.caller)
	}
	if atLock {
		switch {
		case r.exchange:
			from.Replaced(r.caller)
		case ontoLock:
			from.Move(to)
		default:
			from.Release()
			f.usualLocks.set(f.Inodes.Path(r.oldDir, r.oldName), false)
		}
	}
	f.Moved(r.newDir, r.newName)
	if r.exchange {
		f.Moved(r.oldDir, r.oldName)
	}
	return nil
}

// admitReplacement returns nil if the file at a lock name may be replaced, and reports whether the name is free.
func (f *FS) admitReplacement(to lockstore.NameLock, r renaming) (free bool, err error) {
	visible, err := f.lookEntry(to, r.newDir, r.newName)
	if err != nil || !visible {
		return !visible, err
	}
	return false, to.Admit(r.caller, lockstore.Replacing)
}

// admitChange refuses a request to change the bytes of n if n is a live lock of another family, or lies in a
// directory that is one.
func (f *FS) admitChange(n *backing.Inode, in *fuse.InHeader, attempt lockstore.Attempt) error {
	if dir := f.Inodes.ParentOf(n); dir != nil && !n.IsDir() {
		if err := f.admitWithin(dir, in); err != nil {
			return err
		}
	}
	nameLock, ok := f.lockOf(n)
	if !ok {
		return nil
	}
	defer nameLock.Leave()
	return nameLock.Admit(f.caller(in), attempt)
}

// admitWithin refuses a request to change an entry of dir if dir is a live lock of another family.
func (f *FS) admitWithin(dir *backing.Inode, in *fuse.InHeader) error {
	nameLock, ok := f.lockOf(dir)
	if !ok {
		return nil
	}
	defer nameLock.Leave()
	return nameLock.Admit(f.caller(in), lockstore.Entering)
}

// changedWithin tells the store of a change in dir.
func (f *FS) changedWithin(dir *backing.Inode) {
	if !dir.LockNamed() {
		return
	}
	if path, ok := f.Inodes.PlacePath(dir); ok && f.locks.Holds(path) {
		f.locks.Written(path, &dir.Seen)
	}
}

// timeSet tells the store that the caller has set the time of n, which may be a lock, to a time other than the
// present. Programs that copy files do that.
func (f *FS) timeSet(n *backing.Inode, in *fuse.SetAttrIn) {
	if in.Valid&fuse.FATTR_MTIME == 0 || in.Valid&fuse.FATTR_MTIME_NOW != 0 {
		return
	}
	if nameLock, ok := f.lockOf(n); ok {
		defer nameLock.Leave()
		nameLock.TimeSet(f.caller(&in.InHeader), time.Unix(int64(in.Mtime), int64(in.Mtimensec)))
	}
}

// ofStranger reports whether n is a live exclusive lock of another family than the caller's.
func (f *FS) ofStranger(n *backing.Inode, in *fuse.InHeader) bool {
	nameLock, ok := f.lockOf(n)
	if !ok {
		return false
	}
	defer nameLock.Leave()
	return nameLock.Stranger(f.caller(in))
}

// open opens n. At a lock name the judgment and the open are one step, so that no pid file is removed while a process
// opens it.
func (f *FS) open(n *backing.Inode, in *fuse.OpenIn, out *fuse.OpenOut) error {
	nameLock, ok := f.enterPlace(n)
	if !ok {
		return f.openOther(n, in, out)
	}
	defer nameLock.Leave()
	visible, err := f.look(nameLock, n)
	switch {
	case err != nil:
		return err
	case !visible: // the lock was stale
		if err := f.retries.stale(&in.InHeader, n.ID); err != nil {
			return err
		}
	}
	if int(in.Flags)&unix.O_TRUNC != 0 {
		if err := nameLock.Admit(f.caller(&in.InHeader), lockstore.Truncating); err != nil {
			return err
		}
	}
	h := f.newHandle(n, in)
	guarded := nameLock.Guarded()
	if h.Writes() {
		caller := f.caller(&in.InHeader)()
		f.writtenBy(n, h, f.locks.Writer(caller, f.mayRemove(&in.InHeader, n)))
		h.Family = guarded && !nameLock.Stranger(func() bootid.Process { return caller })
	}
	return f.openFile(h, in, out, guarded)
}

// writtenBy records the process that opens n, a file at a lock name, for writing.
func (f *FS) writtenBy(n *backing.Inode, h *backing.Handle, w *lockstore.Writer) {
	n.Seen.WrittenBy(w)
	h.Writer = w
	if path, ok := f.Inodes.PlacePath(n); ok {
		f.locks.Writing(path, w)
	}
}

// writingWithin tells the store that the caller opens a file in dir for writing, if dir may be a lock.
func (f *FS) writingWithin(dir *backing.Inode, in *fuse.InHeader) {
	if !dir.LockNamed() {
		return
	}
	if path, ok := f.Inodes.PlacePath(dir); ok && f.locks.Holds(path) {
		f.locks.Writing(path, f.locks.Writer(f.caller(in)(), false))
	}
}

// openOther opens a file that is not at a lock name, or no longer.
func (f *FS) openOther(n *backing.Inode, in *fuse.OpenIn, out *fuse.OpenOut) error {
	if err := f.reaped(n, &in.InHeader); err != nil {
		return err
	}
	dir := f.Inodes.ParentOf(n)
	if dir == nil || n.IsDir() || !dir.LockNamed() {
		return f.openFile(f.newHandle(n, in), in, out, false)
	}
	if int(in.Flags)&unix.O_TRUNC != 0 {
		if err := f.admitWithin(dir, &in.InHeader); err != nil {
			return err
		}
	}
	h := f.newHandle(n, in)
	if h.Writes() {
		f.writingWithin(dir, &in.InHeader)
	}
	path, ok := f.Inodes.PlacePath(dir)
	return f.openFile(h, in, out, ok && f.locks.Holds(path))
}

// closedLock tells the store that a handle is closed, if a lock was made or may have been written with it, or if it
// kept a pid file from being removed.
func (f *FS) closedLock(h *backing.Handle) {
	n := h.Node
	switch {
	case h.Descriptor != nil:
		f.locks.Closed(h.Descriptor, h.Row.Bits.Load()&handover.BitClosedEnd != 0)
	case n.LockNamed():
		if path, ok := f.Inodes.PlacePath(n); ok && (h.Writes() || f.locks.Holds(path)) && f.IsAt(n, path) {
			f.locks.Written(path, &n.Seen)
		}
	case h.Writes():
		if dir := f.Inodes.ParentOf(n); dir != nil {
			f.changedWithin(dir)
		}
	}
}
