//go:build linux

package fs

import (
	"bytes"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// attributes calls do with a path through which the extended attributes of n are accessed.
func (f *FS) attributes(n *backing.Inode, in *fuse.InHeader, do func(path string) (int, error)) (uint32, fuse.Status) {
	if n == nil {
		return 0, status(unix.ENODATA) // control files have none
	}
	if err := f.reaped(n, in); err != nil {
		return 0, status(err)
	}
	size := 0
	err := f.WithFD(n, func(fd int) (err error) {
		size, err = do(backing.ProcPath(fd))
		return err
	})
	return uint32(max(size, 0)), status(err)
}

// GetXAttr implements fuse.RawFileSystem.
func (f *FS) GetXAttr(_ <-chan struct{}, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := f.Inodes.Get(in.NodeId)
	switch {
	case n != nil && name == backing.ACLAccess:
		return f.accessACL(n, in, dest)
	case strings.HasPrefix(name, lockAttributes):
		return f.getLockAttribute(n, in, name, dest)
	}
	return f.attributes(n, in, func(path string) (int, error) {
		size, err := unix.Getxattr(path, name, dest)
		if err == unix.ENODATA && name == selinuxLabel && !f.selinux {
			// A filesystem without labels returns this error. ls(1) then does not ask for those of the next file.
			err = unix.EOPNOTSUPP
		}
		return size, err
	})
}

func (f *FS) accessACL(n *backing.Inode, in *fuse.InHeader, dest []byte) (size uint32, code fuse.Status) {
	if n.NoACL.Holds() {
		return 0, fuse.ENODATA
	}
	n.NoACL.Look(func() bool {
		size, code = f.attributes(n, in, func(path string) (int, error) {
			return unix.Getxattr(path, backing.ACLAccess, dest)
		})
		return code == fuse.ENODATA && f.Local
	})
	return size, code
}

// selinuxLabel is the attribute that ls -l asks for on every file, with or without SELinux.
const selinuxLabel = "security.selinux"

// ListXAttr implements fuse.RawFileSystem.
func (f *FS) ListXAttr(_ <-chan struct{}, in *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if isControl(in.NodeId) {
		return 0, fuse.OK
	}
	return f.attributes(f.Inodes.Get(in.NodeId), in, func(path string) (int, error) { return unix.Listxattr(path, dest) })
}

// SetXAttr implements fuse.RawFileSystem.
func (f *FS) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	if isControl(in.NodeId) || strings.HasPrefix(name, lockAttributes) {
		return f.refuseAttribute(&in.InHeader, name)
	}
	n := f.Inodes.Get(in.NodeId)
	if n != nil {
		n.NoACL.Set()
		defer n.NoACL.Set()
	}
	i := f.beginEntry(&in.InHeader, opSetXattr, name)
	_, code := f.attributes(n, &in.InHeader, func(path string) (int, error) {
		return 0, i.once(func() error { return unix.Setxattr(path, name, data, int(in.Flags)) }, func(err error) bool {
			value := make([]byte, len(data)+1)
			size, getErr := unix.Getxattr(path, name, value)
			return err == unix.EEXIST && getErr == nil && bytes.Equal(value[:size], data)
		})
	})
	if code == fuse.OK && name == backing.ACLAccess {
		return status(f.clearForeignSetGroup(n, &in.InHeader))
	}
	return code
}

// clearForeignSetGroup clears the set-group-id bit of n if the caller, who has set the ACL of n, is neither root nor in the
// group of n. The kernel clears it only for a caller without CAP_FSETID, which the server has.
func (f *FS) clearForeignSetGroup(n *backing.Inode, in *fuse.InHeader) error {
	st, err := f.Stat(n)
	if err != nil || in.Uid == 0 || st.Mode&unix.S_ISGID == 0 || f.isInGroup(in, st.Gid) {
		return err
	}
	return f.WithFD(n, func(fd int) error {
		return unix.Fchmodat(unix.AT_FDCWD, backing.ProcPath(fd), st.Mode&0o7777&^unix.S_ISGID, 0)
	})
}

// RemoveXAttr implements fuse.RawFileSystem.
func (f *FS) RemoveXAttr(_ <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	if strings.HasPrefix(name, lockAttributes) {
		return f.refuseAttribute(in, name)
	}
	i := f.beginEntry(in, opRemoveXattr, name)
	_, code := f.attributes(f.Inodes.Get(in.NodeId), in, func(path string) (int, error) {
		return 0, i.once(func() error { return unix.Removexattr(path, name) }, is(unix.ENODATA))
	})
	return code
}

// Readlink implements fuse.RawFileSystem.
func (f *FS) Readlink(_ <-chan struct{}, in *fuse.InHeader) ([]byte, fuse.Status) {
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		return nil, status(unix.ESTALE)
	}
	if err := f.reaped(n, in); err != nil {
		return nil, status(err)
	}
	var target []byte
	err := f.WithFD(n, func(fd int) (err error) {
		target, err = backing.Readlink(fd, "")
		return err
	})
	return target, status(err)
}
