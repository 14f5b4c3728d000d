//go:build linux

package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/control"
	"latchfs/fs/handover"
)

const direntBuffer = 32 << 10

// listTime is after how long a part of a directory is answered: until then nothing is made or removed in it.
const listTime = 500 * time.Microsecond

// OpenDir implements fuse.RawFileSystem.
func (f *FS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isControl(in.NodeId) {
		return fuse.OK
	}
	n := f.inodes.get(in.NodeId)
	if n == nil {
		return status(unix.ESTALE)
	}
	f.undo(&in.InHeader)
	// failpoint: crashAt("opendir before")
	if err := f.mayOpen(&in.InHeader, false); err != nil {
		return status(err)
	}
	fd, err := reopen(n.fd, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		f.descriptors.give(in.Uid)
		return status(err)
	}
	d := &dirHandle{node: n, fd: fd, row: f.tables.Handles.Take()}
	d.row.Node, d.row.Unique, d.row.User = n.id, in.Unique&^uniqueResent, in.Uid
	d.row.Bits.Store(handover.BitDirectory)
	f.tables.Set(&d.row.FD, fd)
	out.Fh = f.nextHandle()
	f.dirs.add(out.Fh, d)
	d.row.ID.Store(out.Fh)
	// failpoint: crashAt("opendir reply")
	return fuse.OK
}

// ReleaseDir implements fuse.RawFileSystem.
func (f *FS) ReleaseDir(in *fuse.ReleaseIn) { f.removeDir(in.Fh) }

// FsyncDir implements fuse.RawFileSystem.
func (f *FS) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	d := f.dirs.get(in.Fh)
	if d == nil {
		return status(unix.EBADF)
	}
	return status(syncFD(d.fd, in.FsyncFlags))
}

// ReadDir implements fuse.RawFileSystem.
func (f *FS) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isControl(in.NodeId) {
		f.control.ReadDir(in, out.AddDirEntry)
		return fuse.OK
	}
	return status(f.readDir(in, func(dir *inode, entry fuse.DirEntry) (added, full bool) {
		if f.isLockName(entry.Name) && f.hiddenLock(dir, entry.Name) {
			return false, false
		}
		added = out.AddDirEntry(entry)
		return added, !added
	}))
}

// ReadDirPlus implements fuse.RawFileSystem.
func (f *FS) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	if isControl(in.NodeId) {
		// Without a node id: the kernel looks up what somebody asks for.
		f.control.ReadDir(in, func(entry fuse.DirEntry) bool { return out.AddDirLookupEntry(entry) != nil })
		return fuse.OK
	}
	f.undo(&in.InHeader)
	// failpoint: crashAt("readdirplus before")
	// failpoint: defer crashAt("readdirplus reply")
	return status(f.readDir(in, func(dir *inode, entry fuse.DirEntry) (added, full bool) {
		var found fuse.EntryOut
		if entry.Name != "." && entry.Name != ".." {
			if err := f.lookup(dir, entry.Name, &in.InHeader, &found); err != nil && f.isLockName(entry.Name) {
				return false, false // it was stale and is gone
			}
			// Any other that has gone meanwhile keeps node id 0: the kernel will look
			// it up if anybody asks.
		}
		into := out.AddDirLookupEntry(entry)
		if into == nil {
			f.inodes.unfind(found.NodeId, in.Unique)
			return false, true
		}
		*into = found
		return true, false
	}))
}

// readDir passes entries to add from the offset asked for, until there is no room for more, or for listTime: then at least one was
// added, since none at all would be the end.
func (f *FS) readDir(in *fuse.ReadIn, add func(*inode, fuse.DirEntry) (added, full bool)) error {
	d := f.dirs.get(in.Fh)
	if d == nil {
		return unix.EBADF
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if in.Offset != d.next {
		if _, err := unix.Seek(d.fd, int64(in.Offset), unix.SEEK_SET); err != nil {
			return err
		}
		d.pending, d.next = nil, in.Offset
	} else if in.Offset == 0 && len(d.pending) == 0 {
		// rewinddir(3), or a first read: what was made meanwhile is to be seen.
		if _, err := unix.Seek(d.fd, 0, unix.SEEK_SET); err != nil {
			return err
		}
	}
	began, some := monotonicNow(), false
	for !some || monotonicNow()-began < monotonic(listTime) {
		if len(d.pending) == 0 {
			if d.buffer == nil {
				d.buffer = make([]byte, direntBuffer)
			}
			var n int
			err := retry(func() (err error) {
				n, err = unix.Getdents(d.fd, d.buffer)
				return err
			})
			if err != nil || n == 0 {
				return err
			}
			d.pending = d.buffer[:n]
		}
		var entry fuse.DirEntry
		size := entry.Parse(d.pending)
		if covered := d.node == f.root && entry.Name == control.Name; !covered {
			added, full := add(d.node, entry)
			if full {
				return nil
			}
			some = some || added
		}
		d.pending, d.next = d.pending[size:], entry.Off
	}
	return nil
}
