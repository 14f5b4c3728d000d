//go:build linux

package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/lockstore"
)

// CreateLifetime is how long the kernel may cache the attributes of a lock that was just made. Without it the kernel
// would ask for them again before open(2) returns (may_open).
const CreateLifetime = 20 * time.Millisecond

func fillAttr(out *fuse.Attr, st *unix.Stat_t) {
	*out = fuse.Attr{
		Ino: st.Ino, Size: uint64(st.Size), Blocks: uint64(st.Blocks),
		Atime: uint64(st.Atim.Sec), Atimensec: uint32(st.Atim.Nsec),
		Mtime: uint64(st.Mtim.Sec), Mtimensec: uint32(st.Mtim.Nsec),
		Ctime: uint64(st.Ctim.Sec), Ctimensec: uint32(st.Ctim.Nsec),
		Mode: st.Mode, Nlink: uint32(st.Nlink),
		Owner: fuse.Owner{Uid: st.Uid, Gid: st.Gid},
		// This is the kernel's 32-bit device number. It holds every number that mknod(2) makes.
		Rdev:    uint32(unix.Major(st.Rdev)<<8 | unix.Minor(st.Rdev)&0xff | unix.Minor(st.Rdev)&^0xff<<12),
		Blksize: uint32(st.Blksize),
	}
}

func fillEntry(out *fuse.EntryOut, n *backing.Inode, st *unix.Stat_t) {
	out.NodeId = n.ID
	out.SetEntryTimeout(backing.CacheLifetime)
	out.SetAttrTimeout(backing.CacheLifetime)
	fillAttr(&out.Attr, st)
}

// GetAttr implements fuse.RawFileSystem.
func (f *FS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if isControl(in.NodeId) {
		f.control.Attr(in.NodeId, &out.Attr)
		return fuse.OK
	}
	return status(f.getAttr(in.NodeId, &in.InHeader, out))
}

func (f *FS) getAttr(id uint64, in *fuse.InHeader, out *fuse.AttrOut) error {
	n := f.Inodes.Get(id)
	if n == nil {
		return unix.ESTALE
	}
	held, fresh, err := f.lookAgain(n, in)
	if err != nil {
		return err
	}
	if err := f.reaped(n, in); err != nil {
		return err
	}
	st, err := f.Stat(n)
	if err != nil {
		return err
	}
	if !held {
		out.SetTimeout(backing.CacheLifetime)
	}
	fillAttr(&out.Attr, &st)
	if fresh {
		freshen(&out.Attr)
	}
	return nil
}

// Statx implements fuse.RawFileSystem.
func (f *FS) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		return fuse.ENOSYS // a control file: the kernel then asks with GETATTR
	}
	held, fresh, err := f.lookAgain(n, &in.InHeader)
	if err != nil {
		return status(err)
	}
	if err := f.reaped(n, &in.InHeader); err != nil {
		return status(err)
	}
	var st unix.Statx_t
	flags := unix.AT_EMPTY_PATH | int(in.SxFlags)&(unix.AT_STATX_FORCE_SYNC|unix.AT_STATX_DONT_SYNC)
	if err := f.WithFD(n, func(fd int) error { return unix.Statx(fd, "", flags, int(in.SxMask), &st) }); err != nil {
		return status(err)
	}
	if !held {
		out.SetTimeout(backing.CacheLifetime)
	}
	out.FromStatx(&st)
	if fresh {
		now := time.Now()
		out.Mtime = fuse.SxTime{Sec: uint64(now.Unix()), Nsec: uint32(now.Nanosecond())}
		out.Ctime = out.Mtime
	}
	return fuse.OK
}

// SetAttr implements fuse.RawFileSystem.
func (f *FS) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		return refuse(in.NodeId)
	}
	if err := f.reaped(n, &in.InHeader); err != nil {
		return status(err)
	}
	if err := f.setAttr(n, in); err != nil {
		return status(err)
	}
	return status(f.getAttr(in.NodeId, &in.InHeader, out))
}

func (f *FS) setAttr(n *backing.Inode, in *fuse.SetAttrIn) error {
	if mode, ok := in.GetMode(); ok {
		err := f.WithFD(n, func(fd int) error { return unix.Fchmodat(unix.AT_FDCWD, backing.ProcPath(fd), mode, 0) })
		if err != nil {
			return err
		}
	}
	uid, hasUID := in.GetUID()
	gid, hasGID := in.GetGID()
	if hasUID || hasGID {
		// An id that is not set is all ones, which chown(2) takes for "unchanged".
		err := f.WithFD(n, func(fd int) error {
			return unix.Fchownat(fd, "", int(int32(uid)), int(int32(gid)), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			return err
		}
	}
	if size, ok := in.GetSize(); ok {
		if err := f.admitChange(n, &in.InHeader, lockstore.Truncating); err != nil {
			return err
		}
		if in.Valid&fuse.FATTR_KILL_SUIDGID != 0 {
			if err := f.KillPrivileges(n); err != nil {
				return err
			}
		}
		i := f.beginEntry(&in.InHeader, opTruncate, "")
		if err := i.once(func() error { return f.truncate(n, in, int64(size)) }, never); err != nil {
			return err
		}
	}
	// A live lock looks fresh to all but its holder's family, so the times that others set are ignored.
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 && !f.ofStranger(n, &in.InHeader) {
		if err := f.WithFD(n, func(fd int) error { return setTimes(fd, in) }); err != nil {
			return err
		}
		f.timeSet(n, in)
	}
	return nil
}

func (f *FS) truncate(n *backing.Inode, in *fuse.SetAttrIn, size int64) error {
	if fh, ok := in.GetFh(); ok {
		if h := f.Files.Get(fh); h != nil && h.Writes() {
			return f.WithFile(h, func(fd int) error {
				return backing.Retry(func() error { return unix.Ftruncate(fd, size) })
			})
		}
	}
	return f.WithFD(n, func(fd int) error {
		return backing.Retry(func() error { return unix.Truncate(backing.ProcPath(fd), size) })
	})
}

func setTimes(fd int, in *fuse.SetAttrIn) error {
	times := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		times[0] = unix.Timespec{Sec: int64(in.Atime), Nsec: int64(in.Atimensec)}
		if in.Valid&fuse.FATTR_ATIME_NOW != 0 {
			times[0] = unix.Timespec{Nsec: unix.UTIME_NOW}
		}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		times[1] = unix.Timespec{Sec: int64(in.Mtime), Nsec: int64(in.Mtimensec)}
		if in.Valid&fuse.FATTR_MTIME_NOW != 0 {
			times[1] = unix.Timespec{Nsec: unix.UTIME_NOW}
		}
	}
	return unix.UtimesNanoAt(fd, "", times[:], unix.AT_EMPTY_PATH)
}
