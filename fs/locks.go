//go:build linux

package fs

import (
	"errors"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/backing"
	"latchfs/lockstore"
)

// Most that differs at a lock name is in this file, lock_acquire.go and lock_protect.go. This file finds the name
// lock of a name, and answers looks at locks.

// enter takes the name lock of the entry name of dir. Directories are renamed outside of all name locks, so the path
// stays true until the name lock is left.
func (f *FS) enter(dir *backing.Inode, name string) lockstore.NameLock {
	for {
		path := f.Inodes.Path(dir, name)
		nameLock := f.locks.Enter(path)
		if f.Inodes.Path(dir, name) == path {
			return nameLock
		}
		nameLock.Leave()
	}
}

// enterBoth takes the name locks of two entries.
func (f *FS) enterBoth(dirA *backing.Inode, a string, dirB *backing.Inode, b string) (_, _ lockstore.NameLock) {
	for {
		pathA, pathB := f.Inodes.Path(dirA, a), f.Inodes.Path(dirB, b)
		nameLockA, nameLockB := f.locks.EnterBoth(pathA, pathB)
		if f.Inodes.Path(dirA, a) == pathA && f.Inodes.Path(dirB, b) == pathB {
			return nameLockA, nameLockB
		}
		nameLockB.Leave()
		nameLockA.Leave()
	}
}

// enterPlace takes the name lock of the lock name where n was last seen. It reports false if n is not there any more.
func (f *FS) enterPlace(n *backing.Inode) (lockstore.NameLock, bool) {
	if !n.LockNamed() {
		return lockstore.NameLock{}, false
	}
	for {
		path, ok := f.Inodes.PlacePath(n)
		if !ok {
			return lockstore.NameLock{}, false
		}
		nameLock := f.locks.Enter(path)
		if f.IsAt(n, path) {
			return nameLock, true
		}
		nameLock.Leave()
		if again, _ := f.Inodes.PlacePath(n); again == path {
			return lockstore.NameLock{}, false // another file has that name
		}
	}
}

// lockOf takes the name lock of n if there is a record of a lock at its name. It reports false if there is none.
func (f *FS) lockOf(n *backing.Inode) (lockstore.NameLock, bool) {
	if !n.LockNamed() {
		return lockstore.NameLock{}, false
	}
	if path, ok := f.Inodes.PlacePath(n); !ok || !f.locks.Holds(path) {
		return lockstore.NameLock{}, false
	}
	return f.enterPlace(n)
}

// place records that n is the entry name of dir, if the place matters: for a directory, at a lock name, and in a
// directory at a lock name. A file with several names keeps the name of a lock.
func (f *FS) place(n, dir *backing.Inode, name string) {
	lockNamed := f.IsLockName(name)
	if !n.IsDir() {
		if !lockNamed && !dir.LockNamed() {
			return
		}
		if at, ok := f.Inodes.PlacePath(n); ok && at != f.Inodes.Path(dir, name) && f.locks.Holds(at) && f.IsAt(n, at) {
			return
		}
	}
	f.Inodes.Place(n, dir, name, lockNamed)
}

// caller returns a function that identifies the caller of a request while it waits for the answer.
func (f *FS) caller(in *fuse.InHeader) func() bootid.Process {
	return func() bootid.Process {
		// A caller in an unknown pid namespace is the zero Process.
		p, _ := f.callers.Identify(int(in.Pid))
		p.UID = in.Uid
		return p
	}
}

// lookupLock finds the entry at a lock name. A stale lock is reaped and not found.
func (f *FS) lookupLock(dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	return f.lookupIn(nameLock, dir, name, in, out)
}

// lookupIn finds the entry at a lock name within its name lock.
func (f *FS) lookupIn(
	nameLock lockstore.NameLock, dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut,
) error {
	n, st, err := f.entry(dir, name, in)
	if errors.Is(err, unix.ENOENT) {
		nameLock.Look(nil, nil)
	}
	if err != nil {
		return err
	}
	file := backing.FileOf(&st)
	if !nameLock.Look(&file, &n.Seen) {
		f.Inodes.Unfind(n.ID, in.Unique)
		return unix.ENOENT
	}
	f.retries.lookedUp(in, n.ID)
	fillEntry(out, n, &st)
	if nameLock.Held() {
		out.SetAttrTimeout(0)
		caller := f.caller(in)
		if (f.heartbeat || f.locks.Followed()) && nameLock.Stranger(caller) {
			nameLock.Contend(caller)
			if f.heartbeat {
				freshen(&out.Attr)
			}
		}
	}
	return nil
}

// seesFresh reports whether the caller is to see the lock of nameLock as if it had just been taken: a program that
// judges locks by their age would break it otherwise.
func (f *FS) seesFresh(nameLock lockstore.NameLock, in *fuse.InHeader) bool {
	return f.heartbeat && nameLock.Stranger(f.caller(in))
}

func freshen(attr *fuse.Attr) {
	now := time.Now()
	attr.SetTimes(nil, &now, &now)
}

// lookAgain judges n before its attributes are answered, and reaps it if it is a stale lock. It reports whether n is
// a lock that stays, and whether its times are to be the present.
func (f *FS) lookAgain(n *backing.Inode, in *fuse.InHeader) (held, fresh bool, err error) {
	nameLock, ok := f.lockOf(n)
	if !ok {
		return false, false, nil
	}
	defer nameLock.Leave()
	visible, err := f.look(nameLock, n)
	held = visible && nameLock.Held()
	return held, held && f.seesFresh(nameLock, in), err
}

// look judges the lock of nameLock, whose file is n.
func (f *FS) look(nameLock lockstore.NameLock, n *backing.Inode) (visible bool, err error) {
	st, err := f.Stat(n)
	if err != nil {
		return false, err
	}
	file := backing.FileOf(&st)
	return nameLock.Look(&file, &n.Seen), nil
}

// lookEntry judges the file at the entry name of dir, whose name lock is nameLock.
func (f *FS) lookEntry(nameLock lockstore.NameLock, dir *backing.Inode, name string) (visible bool, err error) {
	st, err := backing.StatEntry(dir.PathFD(), name)
	if errors.Is(err, unix.ENOENT) {
		return nameLock.Look(nil, nil), nil
	} else if err != nil {
		return false, err
	}
	file := backing.FileOf(&st)
	return f.judgments.look(nameLock, &file, f.Inodes.Peek(backing.KeyOf(&st), dir.PathFD(), name)), nil
}

// hiddenLock reports whether the entry at a lock name was stale and is gone.
func (f *FS) hiddenLock(dir *backing.Inode, name string) bool {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	visible, err := f.lookEntry(nameLock, dir, name)
	return err == nil && !visible
}
