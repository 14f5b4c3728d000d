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

// This file, lock_acquire.go and lock_protect.go are where requests branch into the lock
// store: everything that is different at a lock name is there. Here is how the name lock of
// a name is found, and what looks at locks see.

// enter takes the name lock of the entry name of dir. Directories are renamed outside of all
// name locks, so that once inside the path stays true.
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

// enterBoth does so for two names.
func (f *FS) enterBoth(dirA *backing.Inode, a string, dirB *backing.Inode, b string) (lockstore.NameLock, lockstore.NameLock) {
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

// enterPlace takes the name lock of the lock name that the file n was last seen at; false if
// it is not there any more.
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
			return lockstore.NameLock{}, false // another file is at that name
		}
	}
}

// lockOf does the same if there is a record of a lock of that name.
func (f *FS) lockOf(n *backing.Inode) (lockstore.NameLock, bool) {
	if !n.LockNamed() {
		return lockstore.NameLock{}, false
	}
	if path, ok := f.Inodes.PlacePath(n); !ok || !f.locks.Holds(path) {
		return lockstore.NameLock{}, false
	}
	return f.enterPlace(n)
}

// place remembers that n is the entry name of dir, if that matters: of a directory, at a lock
// name, and in a directory at one. A file with several names keeps that of a lock.
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

// caller returns a function that identifies who made a request, while he waits for it.
func (f *FS) caller(in *fuse.InHeader) func() bootid.Process {
	return func() bootid.Process {
		// A caller out of sight is the zero Process.
		p, _ := f.callers.Identify(int(in.Pid))
		p.UID = in.Uid
		return p
	}
}

// lookupLock finds the entry at a lock name, unless it is stale: then it is reclaimed and
// there is none.
func (f *FS) lookupLock(dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	return f.lookupIn(nameLock, dir, name, in, out)
}

// lookupIn does so within the name lock.
func (f *FS) lookupIn(nameLock lockstore.NameLock, dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	n, st, err := f.entry(dir, name, in.Unique)
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
		who := f.caller(in)
		if (f.heartbeat || f.locks.Followed()) && nameLock.Stranger(who) {
			nameLock.Contend(who)
			if f.heartbeat {
				freshen(&out.Attr)
			}
		}
	}
	return nil
}

// seesFresh says that who made a request is to see the lock, whose name lock that is, as if it
// had just been taken: programs that judge by age would break it otherwise.
func (f *FS) seesFresh(nameLock lockstore.NameLock, in *fuse.InHeader) bool {
	return f.heartbeat && nameLock.Stranger(f.caller(in))
}

func freshen(attr *fuse.Attr) {
	now := time.Now()
	attr.SetTimes(nil, &now, &now)
}

// lookAgain is asked before the attributes of n are answered: if n is a stale lock it is
// reclaimed. It says whether n is a lock that is not, and whether its times are to be
// the present.
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

// look judges the lock whose name lock that is and whose file n is.
func (f *FS) look(nameLock lockstore.NameLock, n *backing.Inode) (visible bool, err error) {
	st, err := f.Stat(n)
	if err != nil {
		return false, err
	}
	file := backing.FileOf(&st)
	return nameLock.Look(&file, &n.Seen), nil
}

// lookEntry judges what lies at the entry name of dir, whose name lock that is.
func (f *FS) lookEntry(nameLock lockstore.NameLock, dir *backing.Inode, name string) (visible bool, err error) {
	st, err := backing.StatEntry(dir.FD, name)
	if errors.Is(err, unix.ENOENT) {
		return nameLock.Look(nil, nil), nil
	} else if err != nil {
		return false, err
	}
	file := backing.FileOf(&st)
	return f.judgments.look(nameLock, &file, f.Inodes.Peek(backing.KeyOf(&st), dir.FD, name)), nil
}

// hiddenLock says that the entry at a lock name was stale and is gone.
func (f *FS) hiddenLock(dir *backing.Inode, name string) bool {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	visible, err := f.lookEntry(nameLock, dir, name)
	return err == nil && !visible
}
