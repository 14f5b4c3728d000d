//go:build linux

package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/control"
	"latchfs/fs/handover"
)

const direntBuffer = 32 << 10

// listTime is the time after which a part of a directory is answered: until then the kernel makes and removes nothing
// in it.
const listTime = 500 * time.Microsecond

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isControl(in.NodeId) {
		return fuse.OK
	}
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		return status(unix.ESTALE)
	}
	f.undo(&in.InHeader)
	// failpoint: crashAt("opendir before")
	if err := f.MayOpen(&in.InHeader, false); err != nil {
		return status(err)
	}
	fd, err := f.Reopen(n, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return status(err)
	}
	d := &backing.DirHandle{Node: n, FD: fd, Row: f.Tables.Handles.Take()}
	d.Row.Node, d.Row.Unique, d.Row.User = n.ID, in.Unique&^backing.UniqueResent, in.Uid
	d.Row.Bits.Store(handover.BitDirectory)
	f.Tables.Set(&d.Row.FD, fd)
	f.Descriptors.Took(in.Uid)
	out.Fh = f.NextHandle()
	f.Dirs.Add(out.Fh, d)
	d.Row.ID.Store(out.Fh)
	// failpoint: crashAt("opendir reply")
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) { f.RemoveDir(in.Fh) }

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d := f.Dirs.Get(in.Fh)
	if d == nil {
		return status(unix.EBADF)
	}
	return status(syncFD(d.FD, in.FsyncFlags))
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isControl(in.NodeId) {
		f.control.ReadDir(in, out.AddDirEntry)
		return fuse.OK
	}
	return status(f.readDir(in, func(dir *backing.Inode, entry fuse.DirEntry) (added, full bool) {
		if f.IsLockName(entry.Name) && f.hiddenLock(dir, entry.Name) {
			return false, false
		}
		added = out.AddDirEntry(entry)
		return added, !added
	}))
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isControl(in.NodeId) {
		// The entries have no node ids: the kernel looks up those that a program asks for.
		f.control.ReadDir(in, func(entry fuse.DirEntry) bool { return out.AddDirLookupEntry(entry) != nil })
		return fuse.OK
	}
	f.undo(&in.InHeader)
	// failpoint: crashAt("readdirplus before")
	// failpoint: defer crashAt("readdirplus reply")
	return status(f.readDir(in, func(dir *backing.Inode, entry fuse.DirEntry) (added, full bool) {
		var found fuse.EntryOut
		if entry.Name != "." && entry.Name != ".." {
			if err := f.lookup(dir, entry.Name, &in.InHeader, &found); err != nil && f.IsLockName(entry.Name) {
				return false, false // the lock was stale and is gone
			}
			// Any other entry that has gone in the meantime keeps node id 0: the kernel looks it up if a program asks
			// for it.
		}
		into := out.AddDirLookupEntry(entry)
		if into == nil {
			f.Inodes.Unfind(found.NodeId, in.Unique)
			return false, true
		}
		*into = found
		return true, false
	}))
}

// readDir passes entries to add, from the requested offset on, until there is no room or listTime is over. It adds at
// least one: none at all would be the end of the directory.
func (f *FS) readDir(in *fuse.ReadIn, add func(*backing.Inode, fuse.DirEntry) (added, full bool)) error {
	d := f.Dirs.Get(in.Fh)
	if d == nil {
		return unix.EBADF
	}
	dir, err := f.HeldDir(d.Node.ID)
	if err != nil {
		return err
	}
	defer dir.Release()
	d.Mu.Lock()
	defer d.Mu.Unlock()
	if in.Offset != d.Next {
		if _, err := unix.Seek(d.FD, int64(in.Offset), unix.SEEK_SET); err != nil {
			return err
		}
		d.Pending, d.Next = nil, in.Offset
	} else if in.Offset == 0 && len(d.Pending) == 0 {
		// This is rewinddir(3) or a first read: files made in the meantime have to show.
		if _, err := unix.Seek(d.FD, 0, unix.SEEK_SET); err != nil {
			return err
		}
	}
	began, some := backing.MonotonicNow(), false
	for !some || backing.MonotonicNow()-began < backing.Monotonic(listTime) {
		if len(d.Pending) == 0 {
			if d.Buffer == nil {
				d.Buffer = make([]byte, direntBuffer)
			}
			var n int
			err := backing.Retry(func() (err error) {
				n, err = unix.Getdents(d.FD, d.Buffer)
				return err
			})
			if err != nil || n == 0 {
				return err
			}
			d.Pending = d.Buffer[:n]
		}
		var entry fuse.DirEntry
		size := entry.Parse(d.Pending)
		if covered := d.Node == f.Root && entry.Name == control.Name; !covered {
			added, full := add(d.Node, entry)
			if full {
				return nil
			}
			some = some || added
		}
		d.Pending, d.Next = d.Pending[size:], entry.Off
	}
	return nil
}
