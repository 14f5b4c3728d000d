//go:build linux

package fs

import (
	"fmt"
	"os"
	"runtime"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fsCapabilities are those that go away when a thread's file system user ceases to be 0
// (capabilities(7)).
const fsCapabilities = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH |
	1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD

// credentials makes files as the caller, where latchfs is root.
type credentials struct {
	root       bool
	restricted [2]unix.CapUserData // while it acts as another user
}

func readCredentials() (credentials, error) {
	c := credentials{root: os.Geteuid() == 0}
	if !c.root {
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

// as calls make on a thread that is the caller to the file system. The kernel has
// checked what the caller may do; CAP_DAC_OVERRIDE stays, because the caller's
// supplementary groups are not known here.
func (c *credentials) as(caller fuse.Caller, make func() error) error {
	if !c.root || caller.Uid == 0 && caller.Gid == 0 {
		return retry(make)
	}
	runtime.LockOSThread()
	// A thread that could not be changed back would go with its goroutine, and does not
	// come to that: setfsuid(2) to 0 cannot fail for one that was root.
	defer runtime.UnlockOSThread()
	unix.SetfsgidRetGid(int(caller.Gid))
	defer unix.SetfsgidRetGid(0)
	if caller.Uid != 0 {
		unix.SetfsuidRetUid(int(caller.Uid))
		defer unix.SetfsuidRetUid(0) // brings the capabilities back
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := c.restricted
		if err := unix.Capset(&header, &data[0]); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	return retry(make)
}

// With HANDLE_KILLPRIV_V2 it is ours to take set-user-id and set-group-id away when
// somebody without CAP_FSETID changes a file; the kernel then says so in the request. The
// file's capabilities go with the write beneath, whoever makes it.
//
// Without that flag the kernel asks for security.capability before every single
// write, passthrough or not (file_remove_privs, SB_NOSEC).

// killPrivileges takes them away. The kernel has the mode cached and is told.
func (f *Directory) killPrivileges(n *inode) error {
	st, err := f.stat(n)
	if err != nil || !hasPrivileges(st.Mode) {
		return err
	}
	mode := st.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	err = f.withFD(n, func(fd int) error { return unix.Fchmodat(unix.AT_FDCWD, procPath(fd), mode, 0) })
	f.forgetAttributes(n)
	return err
}

// changedBy takes them away from a file that who made a request changed in a way of which the kernel
// does not say whether it takes them: it does from everybody but root.
func (f *Directory) changedBy(n *inode, in *fuse.InHeader) error {
	if in.Uid == 0 {
		return nil
	}
	return f.killPrivileges(n)
}

func hasPrivileges(mode uint32) bool {
	return mode&unix.S_ISUID != 0 || mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP
}
