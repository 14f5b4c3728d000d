//go:build linux

package fs

import (
	"errors"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// mode returns the mode with which to make a file in dir: the caller's umask applies unless dir has a default ACL.
func (f *FS) mode(dir *backing.Inode, mode, umask uint32) uint32 {
	if mode&umask&0o777 == 0 {
		return mode
	}
	if f.acls {
		if size, err := unix.Getxattr(backing.ProcPath(dir.PathFD()), backing.ACLDefault, nil); err == nil && size > 0 {
			return mode
		}
	}
	return mode &^ (umask & 0o777)
}

// setGroup is the set-gid bit of a file that its group may execute.
const setGroup = unix.S_ISGID | unix.S_IXGRP

// isInGroup reports whether the caller is in a group. The supplementary groups of a caller in a pid namespace that is not
// visible are not known.
func (f *FS) isInGroup(in *fuse.InHeader, gid uint32) bool {
	if in.Gid == gid {
		return true
	}
	groups, err := f.callers.Groups(int(in.Pid))
	return err == nil && slices.Contains(groups, gid)
}

// asCaller calls do, which makes a file of a mode in dir, with the credentials of the caller. A set-gid bit is kept if
// the caller is in the group that the file gets from a set-gid directory. The kernel beneath only knows the caller's
// first group, so that group becomes the first.
func (f *FS) asCaller(in *fuse.InHeader, dir *backing.Inode, mode uint32, do func() error) error {
	caller := in.Caller
	if f.credentials.Root && caller.Uid != 0 && mode&setGroup == setGroup {
		if st, err := backing.StatFD(dir.PathFD()); err == nil && st.Mode&unix.S_ISGID != 0 {
			if f.isInGroup(in, st.Gid) {
				caller.Gid = st.Gid
			}
		}
	}
	return f.credentials.As(caller, do)
}

// newEntry is an entry of a directory that a request makes in another way than with open(2).
type newEntry struct {
	in   *fuse.InHeader
	op   handover.Operation
	dir  *backing.Inode
	name string
	kind uint32       // S_IFMT part of the mode
	lock verdict.Kind // of the lock that the entry is at a lock name; "" is none
	// ours reports whether an error of the system call proves that a dead server made the entry for this request. nil
	// is intent.isNew.
	ours func(error) bool
}

// makeEntry makes e with the system call do and fills out.
func (f *FS) makeEntry(e newEntry, do func() error, out *fuse.EntryOut) fuse.Status {
	i := f.beginEntry(e.in, e.op, e.name)
	if e.ours == nil {
		e.ours = i.isNew(e.dir, e.name, e.kind)
	}
	err := f.admitWithin(e.dir, e.in)
	switch {
	case err != nil:
	case e.lock != "" && f.IsLockName(e.name):
		err = f.makeLock(i, e, do, out)
	default:
		if err = i.once(do, e.ours); err == nil {
			if err = f.lookup(e.dir, e.name, e.in, out); err != nil {
				err = i.unmake(e.dir, e.name, e.kind, err)
			}
		}
	}
	if err == nil {
		f.changedWithin(e.dir)
	}
	return status(err)
}

// unmake removes the entry name of dir, of that type, because the request that made it is refused after all, with err.
// It returns err. ENOENT means that the entry has gone.
func (i intent) unmake(dir *backing.Inode, name string, kind uint32, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return err
	}
	flags := 0
	if kind == unix.S_IFDIR {
		flags = unix.AT_REMOVEDIR
	}
	_ = backing.Retry(func() error { return unix.Unlinkat(dir.PathFD(), name, flags) })
	i.finish(0, err)
	return err
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	e := newEntry{in: &in.InHeader, op: opMkdir, dir: dir, name: name, kind: unix.S_IFDIR, lock: verdict.KindMkdir}
	return f.makeEntry(e, func() error {
		return f.asCaller(e.in, dir, in.Mode, func() error {
			return unix.Mkdirat(dir.PathFD(), name, f.mode(dir, in.Mode, in.Umask))
		})
	}, out)
}

// Mknod implements fuse.RawFileSystem. The file it makes is no lock.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	e := newEntry{in: &in.InHeader, op: opMknod, dir: dir, name: name, kind: in.Mode & unix.S_IFMT}
	if e.kind == 0 {
		e.kind = unix.S_IFREG
	}
	// This is the inverse of the packing in fillAttr; makedev(3) has 64 bits.
	dev := unix.Mkdev(in.Rdev>>8&0xfff, in.Rdev&0xff|in.Rdev>>12&0xfff00)
	return f.makeEntry(e, func() error {
		return f.asCaller(e.in, dir, in.Mode, func() error {
			return unix.Mknodat(dir.PathFD(), name, f.mode(dir, in.Mode, in.Umask), int(dev))
		})
	}, out)
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	e := newEntry{in: in, op: opSymlink, dir: dir, name: name, kind: unix.S_IFLNK, lock: verdict.KindSymlink}
	return f.makeEntry(e, func() error {
		return f.asCaller(in, dir, 0, func() error { return unix.Symlinkat(target, dir.PathFD(), name) })
	}, out)
}

// Link implements fuse.RawFileSystem.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := f.Inodes.Get(in.Oldnodeid)
	if n == nil {
		return refuse(in.Oldnodeid)
	}
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	e := newEntry{in: &in.InHeader, op: opLink, dir: dir, name: name, kind: n.Kind, lock: verdict.KindLink}
	e.ours = func(err error) bool {
		st, statErr := backing.StatEntry(dir.PathFD(), name)
		return err == unix.EEXIST && statErr == nil && n.Is(backing.KeyOf(&st), dir.PathFD(), name)
	}
	// The link is not made as the caller: the kernel has checked the request, and protected_hardlinks beneath would
	// check again without the caller's groups.
	return f.makeEntry(e, func() error {
		return f.WithFD(n, func(fd int) error {
			return backing.Retry(func() error {
				return unix.Linkat(unix.AT_FDCWD, backing.ProcPath(fd), dir.PathFD(), name, unix.AT_SYMLINK_FOLLOW)
			})
		})
	}, out)
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	if err := f.admitWithin(dir, &in.InHeader); err != nil {
		return status(err)
	}
	i := f.beginEntry(&in.InHeader, opCreate, name)
	create, lockNamed := f.createOther, f.IsLockName(name)
	if lockNamed {
		create = f.createLock
	}
	if err := f.MayOpen(&in.InHeader, lockNamed); err != nil {
		return status(err)
	}
	return status(create(i, dir, name, in, out))
}

// createOther makes and opens a file that has no lock name.
func (f *FS) createOther(i intent, dir *backing.Inode, name string, in *fuse.CreateIn, out *fuse.CreateOut) error {
	n, h, st, err := f.create(i, dir, name, in, false)
	if err != nil {
		return err
	}
	f.place(n, dir, name)
	f.writingWithin(dir, &in.InHeader)
	f.opened(n, h, st.Mode, &out.OpenOut)
	fillEntry(&out.EntryOut, n, &st)
	return nil
}

// create makes and opens the entry name of dir. For brief see newFile. If the file exists, it was made beneath after
// the kernel had looked. Without O_EXCL the kernel is told to look again, and then checks whether the caller may open
// it.
func (f *FS) create(
	i intent, dir *backing.Inode, name string, in *fuse.CreateIn, brief bool,
) (*backing.Inode, *backing.Handle, unix.Stat_t, error) {
	fd := -1
	open := func(once int) (err error) {
		fd, err = unix.Openat(dir.PathFD(), name, int(in.Flags)&backing.OpenFlags|once|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC,
			f.mode(dir, in.Mode, in.Umask))
		return err
	}
	err := i.once(func() error {
		return f.asCaller(&in.InHeader, dir, in.Mode, func() error { return open(unix.O_CREAT | unix.O_EXCL) })
	}, i.isNew(dir, name, unix.S_IFREG))
	if err == unix.EEXIST && in.Flags&unix.O_EXCL == 0 {
		err = unix.ESTALE
	}
	if err != nil {
		return nil, nil, unix.Stat_t{}, err
	}
	if fd < 0 {
		// A dead server made the file. The mode of a file does not apply to its creator's open.
		if err = open(0); err == unix.EACCES && !f.credentials.Root {
			err = errors.Join(unix.Fchmodat(dir.PathFD(), name, 0o600, 0), open(0),
				unix.Fchmodat(dir.PathFD(), name, f.mode(dir, in.Mode, in.Umask)&0o7777, 0))
		}
	}
	var n *backing.Inode
	var h *backing.Handle
	var st unix.Stat_t
	if err == nil {
		n, h, st, err = f.newFile(fd, in, brief)
	}
	if err != nil {
		err = i.unmake(dir, name, unix.S_IFREG, err)
	}
	return n, h, st, err
}

// newFile takes an open file that was just made into the tables. A brief file, as most locks are, keeps a copy of its
// descriptor until the kernel forgets it, which is cheaper than to open it with O_PATH.
func (f *FS) newFile(fd int, in *fuse.CreateIn, brief bool) (*backing.Inode, *backing.Handle, unix.Stat_t, error) {
	var pathFD int
	var err error
	if brief {
		pathFD, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	} else {
		pathFD, err = unix.Open(backing.ProcPath(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(fd)
		return nil, nil, unix.Stat_t{}, err
	}
	n, st, err := f.adopt(pathFD, &in.InHeader, brief)
	if err != nil {
		unix.Close(fd)
		return nil, nil, st, err
	}
	h := &backing.Handle{Node: n, Flags: int(in.Flags) & backing.OpenFlags, Unique: in.Unique, User: in.Uid, FD: fd}
	return n, h, st, nil
}

// opened puts the handle of an open file of that mode into the table, with a passthrough descriptor if possible.
// Writes that clear set-user-id or set-group-id have to go through latchfs: a passthrough write is made with
// latchfs's capabilities and would not clear them.
func (f *FS) opened(n *backing.Inode, h *backing.Handle, mode uint32, out *fuse.OpenOut) {
	if h.Writes() && backing.HasPrivileges(mode) {
		f.openWatched(n, h, out)
	} else {
		h.Passthrough = f.PassthroughOpen(n, out)
	}
	if n.FD < 0 && f.Spares(h) {
		f.CloseFile(h) // descriptors are scarce
	}
	f.AddFile(h, out)
}

// openedLock puts the handle of the open file of a lock into the table. With flush the server is told when a process
// closes the file.
func (f *FS) openedLock(
	n *backing.Inode, h *backing.Handle, descriptor *lockstore.Descriptor, flush bool, out *fuse.OpenOut,
) {
	h.Descriptor = descriptor
	if !flush {
		out.OpenFlags |= fuse.FOPEN_NOFLUSH
	}
	f.openWatched(n, h, out)
	f.AddFile(h, out)
}

// openWatched opens a file whose writes go through latchfs, one request each. Without the page cache the kernel also
// does not ask for security.capability before a write.
func (f *FS) openWatched(n *backing.Inode, h *backing.Handle, out *fuse.OpenOut) {
	if f.directMmap {
		h.Direct, h.Passthrough = true, f.DirectOpen(n, out)
	} else {
		h.Passthrough = f.CachedOpen(n, out)
	}
}

// Tmpfile implements fuse.RawFileSystem.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	f.undo(&in.InHeader)
	// failpoint: crashAt("tmpfile before")
	// failpoint: defer crashAt("tmpfile reply")
	if err := f.MayOpen(&in.InHeader, false); err != nil {
		return status(err)
	}
	return status(f.createTmpfile(dir, in, out))
}

func (f *FS) createTmpfile(dir *backing.Inode, in *fuse.CreateIn, out *fuse.CreateOut) error {
	var fd int
	err := f.asCaller(&in.InHeader, dir, in.Mode, func() (err error) {
		flags := int(in.Flags)&(backing.OpenFlags|unix.O_EXCL) | unix.O_TMPFILE | unix.O_CLOEXEC
		fd, err = unix.Open(backing.ProcPath(dir.PathFD()), flags, f.mode(dir, in.Mode, in.Umask))
		return err
	})
	if err != nil {
		return err
	}
	n, h, st, err := f.newFile(fd, in, false)
	if err != nil {
		return err
	}
	f.opened(n, h, st.Mode, &out.OpenOut)
	fillEntry(&out.EntryOut, n, &st)
	return nil
}
