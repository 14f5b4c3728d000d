//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/control"
)

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if isControl(in.NodeId) || in.NodeId == fuse.FUSE_ROOT_ID && name == control.Name {
		return status(f.control.Lookup(in, name, out))
	}
	dir, code := f.heldDir(in.NodeId)
	if dir == nil {
		return code
	}
	defer dir.Release()
	f.undo(in)
	// failpoint: crashAt("lookup before")
	// failpoint: defer crashAt("lookup reply")
	return status(f.lookup(dir, name, in, out))
}

// lookup finds the entry name of dir, counts the lookup and fills out.
func (f *FS) lookup(dir *backing.Inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	if f.IsLockName(name) {
		if f.isUnlinker(in) {
			return f.lookupTombstone(dir, name, in, out)
		}
		return f.lookupLock(dir, name, in, out)
	}
	n, st, err := f.entry(dir, name, in)
	if err != nil {
		return err
	}
	fillEntry(out, n, &st)
	return nil
}

// entry returns the inode of the entry name of dir, and counts a lookup of it for a request.
func (f *FS) entry(dir *backing.Inode, name string, in *fuse.InHeader) (*backing.Inode, unix.Stat_t, error) {
	st, err := backing.StatEntry(dir.PathFD(), name)
	if err != nil {
		return nil, st, err
	}
	n := f.Inodes.Peek(backing.KeyOf(&st), dir.PathFD(), name)
	if n == nil || !f.Inodes.Again(n, in.Unique) {
		fd, err := backing.OpenPath(dir.PathFD(), name)
		if err != nil {
			return nil, st, err
		}
		if n, st, err = f.adopt(fd, in, f.IsLockName(name)); err != nil {
			return nil, st, err
		}
	} else if err := f.LookedUp(n, false); err != nil {
		f.Inodes.Unfind(n.ID, in.Unique)
		return nil, st, err
	}
	n.NoACL.LookedUp(&st)
	n.SetTakenAway(false)
	f.place(n, dir, name)
	return n, st, nil
}

// adopt takes the O_PATH descriptor of a file, at a lock name or not, into the table, and counts a lookup for a
// request.
func (f *FS) adopt(fd int, in *fuse.InHeader, lockNamed bool) (*backing.Inode, unix.Stat_t, error) {
	st, err := backing.StatFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, st, err
	}
	handle := f.Unpinned(fd, &st)
	if handle == nil && !lockNamed {
		if err := f.MayPin(in.Uid); err != nil {
			unix.Close(fd)
			return nil, st, err
		}
	}
	n, added := f.Inodes.Add(backing.KeyOf(&st), fd, handle, f.StoredHandle(fd, handle), st.Mode&unix.S_IFMT, in)
	if err := f.LookedUp(n, added); err != nil {
		f.Inodes.Unfind(n.ID, in.Unique)
		return nil, st, err
	}
	if judgment, ok := f.judgments.take(n.Key); ok {
		n.Seen.TakeOver(judgment)
	}
	if changed, ok := f.absentACLs.take(n.Key); ok {
		n.NoACL.Scanned(changed)
	}
	return n, st, nil
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(id, count uint64) {
	if isControl(id) {
		f.control.Forget(id, count)
		return
	}
	f.Inodes.Forget(id, count)
}
