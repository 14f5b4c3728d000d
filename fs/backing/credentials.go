//go:build linux

package backing

import (
	"fmt"
	"os"
	"runtime"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fsCapabilities are the capabilities that a thread loses when its filesystem user ceases to be 0 (capabilities(7)).
const fsCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD

// Credentials are those with which files are made: the caller's, if latchfs is root.
type Credentials struct {
	Root       bool
	restricted [2]unix.CapUserData // the capabilities while a thread acts as another user
}

func ReadCredentials() (Credentials, error) {
	c := Credentials{Root: os.Geteuid() == 0}
	if !c.Root {
		return c, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &c.restricted[0]); err != nil {
		return c, fmt.Errorf("capabilities: %w", err)
	}
	override := c.restricted[0].Effective & (1 << unix.CAP_DAC_OVERRIDE)
	c.restricted[0].Effective = c.restricted[0].Effective&^uint32(fsCapabilities) | override
	return c, nil
}

// As calls make on a thread with the filesystem credentials of the caller. The kernel has checked what the caller may
// do. CAP_DAC_OVERRIDE stays, because the caller's supplementary groups are not known here.
func (c *Credentials) As(caller fuse.Caller, make func() error) error {
	if !c.Root || caller.Uid == 0 && caller.Gid == 0 {
		return Retry(make)
	}
	runtime.LockOSThread()
	// setfsuid(2) to 0 cannot fail on a thread that was root, so the thread can always be changed back.
	defer runtime.UnlockOSThread()
	unix.SetfsgidRetGid(int(caller.Gid))
	defer unix.SetfsgidRetGid(0)
	if caller.Uid != 0 {
		unix.SetfsuidRetUid(int(caller.Uid))
		defer unix.SetfsuidRetUid(0) // restores the capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := c.restricted
		if err := unix.Capset(&header, &data[0]); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	return Retry(make)
}

// With HANDLE_KILLPRIV_V2 it is the task of latchfs to clear set-user-id and set-group-id when a process without
// CAP_FSETID changes a file. The kernel marks such requests. The file's capabilities are removed by the write
// beneath.
//
// Without that flag the kernel asks for security.capability before every single write, with passthrough or not
// (file_remove_privs, SB_NOSEC).

// KillPrivileges clears set-user-id and set-group-id of a file, and has the kernel forget the mode that it has
// cached.
func (d *Directory) KillPrivileges(n *Inode) error {
	st, err := d.Stat(n)
	if err != nil || !HasPrivileges(st.Mode) {
		return err
	}
	mode := st.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	err = d.WithFD(n, func(fd int) error { return unix.Fchmodat(unix.AT_FDCWD, ProcPath(fd), mode, 0) })
	d.ForgetAttributes(n)
	return err
}

// ChangedBy clears the set-user-id and set-group-id of a file after a change whose request does not say whether to
// clear them. They are cleared unless the caller is root.
func (d *Directory) ChangedBy(n *Inode, in *fuse.InHeader) error {
	if in.Uid == 0 {
		return nil
	}
	return d.KillPrivileges(n)
}

func HasPrivileges(mode uint32) bool {
	return mode&unix.S_ISUID != 0 || mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP
}
