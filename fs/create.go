//go:build linux

package fs

import (
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// mode is what a new file in dir is to be made with, the caller's umask applied unless
// dir has a default ACL.
func (f *FS) mode(dir *inode, mode, umask uint32) uint32 {
	if mode&umask&0o777 == 0 {
		return mode
	}
	if f.acls {
		if size, err := unix.Getxattr(procPath(dir.fd), aclDefault, nil); err == nil && size > 0 {
			return mode
		}
	}
	return mode &^ (umask & 0o777)
}

// setGroup is the set-gid bit of a file that may be run by its group.
const setGroup = unix.S_ISGID | unix.S_IXGRP

// maker is the caller as whom a file of that mode is made in dir. A set-gid bit is kept if
// he is in the group the file gets from a set-gid directory, which the kernel beneath
// can only tell if it is his first.
func (f *FS) maker(in *fuse.InHeader, dir *inode, mode uint32) fuse.Caller {
	caller := in.Caller
	if !f.credentials.root || caller.Uid == 0 || mode&setGroup != setGroup {
		return caller
	}
	st, err := statFD(dir.fd)
	if err != nil || st.Mode&unix.S_ISGID == 0 {
		return caller
	}
	if groups, err := f.callers.Groups(int(in.Pid)); err == nil && slices.Contains(groups, st.Gid) {
		caller.Gid = st.Gid
	}
	return caller
}

// make calls do, which makes the entry name of the directory, as the caller, and fills
// out with what came of it. Kind is that of the lock it makes at a lock name.
func (f *FS) make(in *fuse.InHeader, name string, out *fuse.EntryOut, mode uint32, kind lockstore.Kind, do func(dir *inode) error) fuse.Status {
	return f.makeIn(in, name, out, kind, func(dir *inode) error {
		return f.credentials.as(f.maker(in, dir, mode), func() error { return do(dir) })
	})
}

func (f *FS) makeIn(in *fuse.InHeader, name string, out *fuse.EntryOut, kind lockstore.Kind, do func(dir *inode) error) fuse.Status {
	dir := f.inodes.get(in.NodeId)
	if dir == nil {
		return f.control.refuse(in.NodeId)
	}
	err := f.admitWithin(dir, in)
	switch {
	case err != nil:
	case kind != "" && f.isLockName(name):
		err = f.makeLock(dir, name, kind, in, out, func() error { return do(dir) })
	default:
		if err = do(dir); err == nil {
			err = f.lookup(dir, name, in, out)
		}
	}
	if err == nil {
		f.changedWithin(dir)
	}
	return status(err)
}

// Mkdir implements fuse.RawFileSystem.
func (f *FS) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(&in.InHeader, name, out, in.Mode, lockstore.KindMkdir, func(dir *inode) error {
		return unix.Mkdirat(dir.fd, name, f.mode(dir, in.Mode, in.Umask))
	})
}

// Mknod implements fuse.RawFileSystem. What it makes is no lock.
func (f *FS) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(&in.InHeader, name, out, in.Mode, "", func(dir *inode) error {
		// The inverse of the packing in fillAttr; makedev(3) has 64 bits.
		dev := unix.Mkdev(in.Rdev>>8&0xfff, in.Rdev&0xff|in.Rdev>>12&0xfff00)
		return unix.Mknodat(dir.fd, name, f.mode(dir, in.Mode, in.Umask), int(dev))
	})
}

// Symlink implements fuse.RawFileSystem.
func (f *FS) Symlink(_ <-chan struct{}, in *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	return f.make(in, name, out, 0, lockstore.KindSymlink, func(dir *inode) error {
		return unix.Symlinkat(target, dir.fd, name)
	})
}

// Link implements fuse.RawFileSystem.
func (f *FS) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	n := f.inodes.get(in.Oldnodeid)
	if n == nil {
		return f.control.refuse(in.Oldnodeid)
	}
	// Not as the caller: the kernel has checked, and protected_hardlinks beneath would
	// ask again without knowing the caller's groups.
	return f.makeIn(&in.InHeader, name, out, lockstore.KindLink, func(dir *inode) error {
		return f.withFD(n, func(fd int) error {
			return retry(func() error {
				return unix.Linkat(unix.AT_FDCWD, procPath(fd), dir.fd, name, unix.AT_SYMLINK_FOLLOW)
			})
		})
	})
}

// Create implements fuse.RawFileSystem.
func (f *FS) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir := f.inodes.get(in.NodeId)
	if dir == nil {
		return f.control.refuse(in.NodeId)
	}
	if err := f.admitWithin(dir, &in.InHeader); err != nil {
		return status(err)
	}
	if f.isLockName(name) {
		return status(f.createLock(dir, name, in, out))
	}
	n, h, st, err := f.create(dir, name, in)
	if err != nil {
		return status(err)
	}
	f.place(n, dir, name)
	f.opened(n, h, st.Mode, &out.OpenOut)
	fillEntry(&out.EntryOut, n, &st)
	return fuse.OK
}

// create makes and opens the entry name of dir.
func (f *FS) create(dir *inode, name string, in *fuse.CreateIn) (*inode, *handle, unix.Stat_t, error) {
	once := int(in.Flags) & (unix.O_EXCL | unix.O_TRUNC)
	var fd int
	err := f.credentials.as(f.maker(&in.InHeader, dir, in.Mode), func() (err error) {
		fd, err = unix.Openat(dir.fd, name, int(in.Flags)&openFlags|once|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_CLOEXEC,
			f.mode(dir, in.Mode, in.Umask))
		return err
	})
	if err != nil {
		return nil, nil, unix.Stat_t{}, err
	}
	return f.newFile(fd, in)
}

// newFile takes a file that was just made and is open into the tables.
func (f *FS) newFile(fd int, in *fuse.CreateIn) (*inode, *handle, unix.Stat_t, error) {
	pathFD, err := unix.Open(procPath(fd), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, nil, unix.Stat_t{}, err
	}
	n, st, err := f.adopt(pathFD)
	if err != nil {
		unix.Close(fd)
		return nil, nil, st, err
	}
	return n, &handle{node: n, flags: int(in.Flags) & openFlags, fd: fd}, st, nil
}

// opened gives a file of that mode that is open its handle, with a passthrough
// descriptor if that can be. Writes that take privileges away have to come by here: a
// passthrough write is made with our capabilities and would not.
func (f *FS) opened(n *inode, h *handle, mode uint32, out *fuse.OpenOut) {
	if h.writes() && hasPrivileges(mode) {
		f.openWatched(n, h, out)
	} else {
		h.passthrough = f.passthroughOpen(n, out)
	}
	out.Fh = f.files.add(h)
}

// openedLock does the same for the file of a lock.
func (f *FS) openedLock(n *inode, h *handle, descriptor *lockstore.Descriptor, out *fuse.OpenOut) {
	h.descriptor = descriptor
	out.OpenFlags |= fuse.FOPEN_NOFLUSH
	f.openWatched(n, h, out)
	out.Fh = f.files.add(h)
}

// openWatched opens a file whose writes are to come by here, one request each: without
// the page cache the kernel also does not ask for security.capability before a write.
// Such opens get along with any other.
func (f *FS) openWatched(n *inode, h *handle, out *fuse.OpenOut) {
	if f.directMmap {
		h.direct = true
		f.directOpen(n, out)
	} else {
		h.passthrough = f.cachedOpen(n, out)
	}
}

// Tmpfile implements fuse.RawFileSystem.
func (f *FS) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir := f.inodes.get(in.NodeId)
	if dir == nil {
		return f.control.refuse(in.NodeId)
	}
	var fd int
	err := f.credentials.as(f.maker(&in.InHeader, dir, in.Mode), func() (err error) {
		fd, err = unix.Open(procPath(dir.fd), int(in.Flags)&(openFlags|unix.O_EXCL)|unix.O_TMPFILE|unix.O_CLOEXEC,
			f.mode(dir, in.Mode, in.Umask))
		return err
	})
	if err != nil {
		return status(err)
	}
	n, h, st, err := f.newFile(fd, in)
	if err != nil {
		return status(err)
	}
	f.opened(n, h, st.Mode, &out.OpenOut)
	fillEntry(&out.EntryOut, n, &st)
	return fuse.OK
}
