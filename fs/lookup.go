//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/control"
)

// Lookup implements fuse.RawFileSystem.
func (f *FS) Lookup(_ <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if isControl(in.NodeId) || in.NodeId == fuse.FUSE_ROOT_ID && name == control.Name {
		return status(f.control.Lookup(in, name, out))
	}
	dir := f.inodes.get(in.NodeId)
	if dir == nil {
		return status(unix.ESTALE)
	}
	f.undo(in)
	// failpoint: crashAt("lookup before")
	// failpoint: defer crashAt("lookup reply")
	return status(f.lookup(dir, name, in, out))
}

// lookup finds the entry name of dir, counts the lookup and fills out.
func (f *FS) lookup(dir *inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	if f.isLockName(name) {
		if f.isUnlinker(in) {
			return f.lookupTombstone(dir, name, in, out)
		}
		return f.lookupLock(dir, name, in, out)
	}
	n, st, err := f.entry(dir, name, in.Unique)
	if err != nil {
		return err
	}
	fillEntry(out, n, &st)
	return nil
}

// entry finds the inode of the entry name of dir and counts a lookup of it for a request.
func (f *FS) entry(dir *inode, name string, unique uint64) (*inode, unix.Stat_t, error) {
	st, err := statEntry(dir.fd, name)
	if err != nil {
		return nil, st, err
	}
	n := f.inodes.peek(keyOf(&st), dir.fd, name)
	if n == nil || !f.inodes.again(n, unique) {
		fd, err := openPath(dir.fd, name)
		if err != nil {
			return nil, st, err
		}
		if n, st, err = f.adopt(fd, unique, f.isLockName(name)); err != nil {
			return nil, st, err
		}
	}
	n.noACL.lookedUp(&st)
	n.setTakenAway(false)
	f.place(n, dir, name)
	return n, st, nil
}

// adopt takes the O_PATH descriptor of a file, which has a lock name or not, into the table and counts a lookup for a
// request.
func (f *FS) adopt(fd int, unique uint64, lockNamed bool) (*inode, unix.Stat_t, error) {
	st, err := statFD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, st, err
	}
	handle := f.unpinned(fd, &st)
	if handle == nil && !lockNamed {
		if err := f.mayPin(); err != nil {
			unix.Close(fd)
			return nil, st, err
		}
	}
	n := f.inodes.add(keyOf(&st), fd, handle, f.storedHandle(fd, handle), st.Mode&unix.S_IFMT, unique)
	f.judgments.give(n)
	f.absentACLs.give(n)
	return n, st, nil
}

// Forget implements fuse.RawFileSystem.
func (f *FS) Forget(id, count uint64) {
	if isControl(id) {
		f.control.Forget(id, count)
		return
	}
	f.inodes.forget(id, count)
}
