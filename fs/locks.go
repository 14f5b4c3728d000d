//go:build linux

package fs

import (
	"errors"
	"path"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/lockstore"
)

// This file is where requests branch into the lock store: everything that is
// different at a lock name is here.

// isLockName says that name, the last component of a path, is that of locks.
func (f *FS) isLockName(name string) bool {
	for _, pattern := range f.patterns {
		// The patterns were checked when the FS was made.
		if match, _ := path.Match(pattern, name); match {
			return true
		}
	}
	return false
}

// enter takes the section of the entry name of dir. Directories are renamed outside of all
// sections, so that once inside the path stays true.
func (f *FS) enter(dir *inode, name string) lockstore.Section {
	for {
		path := f.inodes.path(dir, name)
		section := f.locks.Enter(path)
		if f.inodes.path(dir, name) == path {
			return section
		}
		section.Leave()
	}
}

// enterBoth does so for two names.
func (f *FS) enterBoth(dirA *inode, a string, dirB *inode, b string) (lockstore.Section, lockstore.Section) {
	for {
		pathA, pathB := f.inodes.path(dirA, a), f.inodes.path(dirB, b)
		sectionA, sectionB := f.locks.EnterBoth(pathA, pathB)
		if f.inodes.path(dirA, a) == pathA && f.inodes.path(dirB, b) == pathB {
			return sectionA, sectionB
		}
		sectionB.Leave()
		sectionA.Leave()
	}
}

// caller returns a function that identifies who made a request, while he waits for it.
func (f *FS) caller(in *fuse.InHeader) func() bootid.Process {
	return func() bootid.Process {
		// A caller out of sight is the zero Process.
		p, _ := f.callers.Identify(int(in.Pid))
		p.UID = in.Uid
		return p
	}
}

func fileOf(st *unix.Stat_t) lockstore.File {
	written, changed := unixTime(st.Mtim), unixTime(st.Ctim)
	if written.After(changed) {
		changed = written
	}
	return lockstore.File{
		ID:      lockstore.FileID{Device: st.Dev, Inode: st.Ino},
		Regular: st.Mode&unix.S_IFMT == unix.S_IFREG,
		Size:    st.Size, UID: st.Uid,
		Written: written, Changed: changed,
	}
}

// lookupLock finds the entry at a lock name, unless it is stale: then it is reclaimed and
// there is none.
func (f *FS) lookupLock(dir *inode, name string, out *fuse.EntryOut) error {
	section := f.enter(dir, name)
	defer section.Leave()
	n, st, err := f.entry(dir, name)
	if errors.Is(err, unix.ENOENT) {
		section.Look(nil, nil)
	}
	if err != nil {
		return err
	}
	f.inodes.place(n, dir, name)
	file := fileOf(&st)
	if !section.Look(&file, &n.unmanaged) {
		f.inodes.forget(n.id, 1)
		return unix.ENOENT
	}
	fillEntry(out, n, &st)
	if section.Held() {
		out.SetAttrTimeout(0)
	}
	return nil
}

// lookAgain is asked before the attributes of n are answered: if n is a stale lock it is
// reclaimed. It says whether n is a lock that is not.
func (f *FS) lookAgain(n *inode) (held bool, err error) {
	section, ok := f.lockOf(n)
	if !ok {
		return false, nil
	}
	defer section.Leave()
	visible, err := look(section, n)
	return visible && section.Held(), err
}

// look judges the lock whose section that is and whose file n is.
func look(section lockstore.Section, n *inode) (visible bool, err error) {
	st, err := statFD(n.fd)
	if err != nil {
		return false, err
	}
	file := fileOf(&st)
	return section.Look(&file, &n.unmanaged), nil
}

// lookEntry judges what lies at the entry name of dir, whose section that is.
func lookEntry(section lockstore.Section, dir *inode, name string) (visible bool, err error) {
	st, err := statEntry(dir.fd, name)
	if errors.Is(err, unix.ENOENT) {
		return section.Look(nil, nil), nil
	} else if err != nil {
		return false, err
	}
	file := fileOf(&st)
	var unmanaged atomic.Int64
	return section.Look(&file, &unmanaged), nil
}

// reaped says that n, with so many links, was a lock and is gone, and that the kernel
// asks because it has the name cached and not because it has the file open.
func (f *FS) reaped(n *inode, links uint32) bool {
	if links > 0 || n.isDir() || n.opens.any() {
		return false
	}
	_, ok := f.inodes.placePath(n)
	return ok
}

// hiddenLock says that the entry at a lock name was stale and is gone.
func (f *FS) hiddenLock(dir *inode, name string) bool {
	path := f.inodes.path(dir, name)
	if !f.locks.Holds(path) {
		return false // judged when it is looked up
	}
	section := f.enter(dir, name)
	defer section.Leave()
	if visible, err := lookEntry(section, dir, name); visible || err != nil {
		return false
	}
	// The kernel may have the entry cached. It holds the directory while it reads it.
	go f.LockFiles().Invalidate(path)
	return true
}

// createLock makes a file at a lock name: an exclusive lock if it is with O_EXCL. The
// record comes first, then the file, then the reply.
func (f *FS) createLock(dir *inode, name string, in *fuse.CreateIn, out *fuse.CreateOut) error {
	section := f.enter(dir, name)
	defer section.Leave()
	var descriptor *lockstore.Descriptor
	exclusive := in.Flags&unix.O_EXCL != 0
	switch visible, err := lookEntry(section, dir, name); {
	case err != nil:
		return err
	// Somebody made it since the kernel looked.
	case visible && exclusive:
		return unix.EEXIST
	case visible:
		return unix.ESTALE // the kernel looks again and opens what it finds
	}
	if exclusive {
		var err error
		if descriptor, err = section.Acquire(f.caller(&in.InHeader)()); err != nil {
			return err
		}
	}
	n, h, st, err := f.create(dir, name, in)
	if err != nil {
		section.Release()
		return err
	}
	f.inodes.place(n, dir, name)
	if exclusive {
		f.openedLock(n, h, descriptor, &out.OpenOut)
	} else {
		f.opened(n, h, st.Mode, &out.OpenOut)
	}
	fillEntry(&out.EntryOut, n, &st)
	if exclusive {
		out.SetAttrTimeout(createLifetime)
	}
	return nil
}

// removeLock removes the entry at a lock name: first the file, then the record.
func (f *FS) removeLock(dir *inode, name string, flags int, in *fuse.InHeader) error {
	section := f.enter(dir, name)
	defer section.Leave()
	if err := section.Admit(f.caller(in), "remove"); err != nil {
		return err
	}
	err := retry(func() error { return unix.Unlinkat(dir.fd, name, flags) })
	if err == nil || errors.Is(err, unix.ENOENT) {
		section.Release()
	}
	return err
}

// renameLock renames a file from or onto a lock name, or both.
func (f *FS) renameLock(oldDir *inode, oldName string, newDir *inode, newName string, in *fuse.RenameIn, rename func() error) error {
	who := f.caller(&in.InHeader)
	exchange := in.Flags&unix.RENAME_EXCHANGE != 0
	switch {
	case oldDir == newDir && oldName == newName:
		return rename()
	case !f.isLockName(newName):
		section := f.enter(oldDir, oldName)
		defer section.Leave()
		if err := section.Admit(who, "rename"); err != nil {
			return err
		}
		if err := rename(); err != nil {
			return err
		}
		if exchange {
			section.Replaced()
		} else {
			section.Release()
		}
	case !f.isLockName(oldName):
		section := f.enter(newDir, newName)
		defer section.Leave()
		if err := section.Admit(who, "replace"); err != nil {
			return err
		}
		if err := rename(); err != nil {
			return err
		}
		section.Replaced()
	default:
		from, to := f.enterBoth(oldDir, oldName, newDir, newName)
		defer from.Leave()
		defer to.Leave()
		if err := from.Admit(who, "rename"); err != nil {
			return err
		}
		if err := to.Admit(who, "replace"); err != nil {
			return err
		}
		if err := rename(); err != nil {
			return err
		}
		to.Replaced()
		if exchange {
			from.Replaced()
		} else {
			from.Move(to)
		}
	}
	f.moved(newDir, newName)
	if exchange {
		f.moved(oldDir, oldName)
	}
	return nil
}

// lockOf enters the section of the lock whose file n is. It is false if n is no lock
// there is a record of.
func (f *FS) lockOf(n *inode) (lockstore.Section, bool) {
	if n.isDir() {
		return lockstore.Section{}, false
	}
	for {
		path, ok := f.inodes.placePath(n)
		if !ok || !f.locks.Holds(path) {
			return lockstore.Section{}, false
		}
		section := f.locks.Enter(path)
		if file, err := f.LockFiles().Stat(path); err == nil && file.ID == (lockstore.FileID{Device: n.key.dev, Inode: n.key.ino}) {
			return section, true
		}
		section.Leave()
		if again, _ := f.inodes.placePath(n); again == path {
			return lockstore.Section{}, false // another file is at that name
		}
	}
}

// admitChange refuses who made a request to change the bytes of n if it is a live
// lock of another family.
func (f *FS) admitChange(n *inode, in *fuse.InHeader, attempt string) error {
	section, ok := f.lockOf(n)
	if !ok {
		return nil
	}
	defer section.Leave()
	return section.Admit(f.caller(in), attempt)
}

// openLock is asked before n is opened. It says whether n is a lock, whose writes are
// to come by here. One that is stale is reclaimed, and ESTALE makes the kernel look again.
func (f *FS) openLock(n *inode, in *fuse.OpenIn) (held bool, err error) {
	section, ok := f.lockOf(n)
	if !ok {
		return false, nil
	}
	defer section.Leave()
	visible, err := look(section, n)
	if err != nil {
		return false, err
	}
	if !visible {
		return false, unix.ESTALE
	}
	if int(in.Flags)&unix.O_TRUNC != 0 {
		return true, section.Admit(f.caller(&in.InHeader), "truncate")
	}
	return true, nil
}

// closedLock tells the store that a handle is closed by which a lock was made or may
// have been written.
func (f *FS) closedLock(h *handle) {
	if h.descriptor != nil {
		f.locks.Closed(h.descriptor)
	} else if h.writes() && !h.node.isDir() {
		if path, ok := f.inodes.placePath(h.node); ok {
			f.locks.Written(path)
		}
	}
}
