//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// createLock makes a file at a lock name. With O_EXCL it is an exclusive lock. The record comes first, then the file,
// then the reply.
func (f *FS) createLock(i intent, dir *backing.Inode, name string, in *fuse.CreateIn, out *fuse.CreateOut) error {
	nameLock := f.enter(dir, name)
	defer nameLock.Leave()
	exclusive := in.Flags&unix.O_EXCL != 0
	switch visible, err := f.lookEntry(nameLock, dir, name); {
	case err != nil:
		return err
	case visible && i.made(nameLock):
	// Another process has made it since the kernel looked.
	case visible && exclusive:
		return unix.EEXIST
	case visible:
		return unix.ESTALE // the kernel looks again and opens what it finds
	}
	caller := f.caller(&in.InHeader)()
	var descriptor *lockstore.Descriptor
	if exclusive && i.made(nameLock) {
		descriptor = nameLock.Descriptor()
	} else if exclusive {
		var err error
		if descriptor, err = nameLock.Acquire(verdict.KindCreate, caller); err != nil {
			return err
		}
		i.SetGeneration(descriptor.Generation())
	}
	n, h, st, err := f.create(i, dir, name, in, exclusive)
	if err != nil {
		nameLock.Release()
		return err
	}
	f.place(n, dir, name)
	fillEntry(&out.EntryOut, n, &st)
	if exclusive {
		f.openedLock(n, h, descriptor, !f.usualLocks.has(f.Inodes.Path(dir, name)), &out.OpenOut)
		out.SetAttrTimeout(CreateLifetime)
	} else {
		f.writtenBy(n, h, f.locks.Writer(caller, f.mayRemove(&in.InHeader, n)))
		f.opened(n, h, st.Mode, &out.OpenOut)
	}
	return nil
}

// makeLock makes the entry e at a lock name with the system call do, and fills out. The entry is an exclusive lock,
// unless it turns out to be data.
func (f *FS) makeLock(i intent, e newEntry, do func() error, out *fuse.EntryOut) error {
	nameLock := f.enter(e.dir, e.name)
	defer nameLock.Leave()
	switch visible, err := f.lookEntry(nameLock, e.dir, e.name); {
	case err != nil:
		return err
	case visible && i.made(nameLock):
	case visible:
		return unix.EEXIST
	default:
		if _, err := nameLock.Acquire(e.lock, f.caller(e.in)()); err != nil {
			return err
		}
		i.SetGeneration(nameLock.Generation())
	}
	if err := i.once(do, e.ours); err != nil {
		nameLock.Release()
		return err
	}
	nameLock.Made()
	err := f.lookupIn(nameLock, e.dir, e.name, e.in, out)
	if err != nil {
		err = i.unmake(e.dir, e.name, e.kind, err)
		nameLock.Release()
	}
	return err
}

// made reports whether a dead server acquired the lock of nameLock for this request. If that lock has settled since,
// only the file is left.
func (i intent) made(nameLock lockstore.NameLock) bool {
	generation := i.Generation()
	return i.Again && generation != 0 && (nameLock.Generation() == generation || !nameLock.Held())
}
