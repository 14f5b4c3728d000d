//go:build linux

package backing

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

// Credentials makes files as the caller, where latchfs is root.
type Credentials struct {
	Root       bool
	restricted [2]unix.CapUserData // while it acts as another user
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

// As calls make on a thread that is the caller to the file system. The kernel has
// checked what the caller may do; CAP_DAC_OVERRIDE stays, because the caller's
// supplementary groups are not known here.
func (c *Credentials) As(caller fuse.Caller, make func() error) error {
	if !c.Root || caller.Uid == 0 && caller.Gid == 0 {
		return Retry(make)
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
	return Retry(make)
}

// With HANDLE_KILLPRIV_V2 it is ours to take set-user-id and set-group-id away when
// somebody without CAP_FSETID changes a file; the kernel then says so in the request. The
// file's capabilities go with the write beneath, whoever makes it.
//
// Without that flag the kernel asks for security.capability before every single
// write, passthrough or not (file_remove_privs, SB_NOSEC).

// KillPrivileges takes them away. The kernel has the mode cached and is told.
func (f *Directory) KillPrivileges(n *Inode) error {
	st, err := f.Stat(n)
	if err != nil || !HasPrivileges(st.Mode) {
		return err
	}
	mode := st.Mode & 0o7777 &^ unix.S_ISUID
	if mode&unix.S_IXGRP != 0 {
		mode &^= unix.S_ISGID
	}
	err = f.WithFD(n, func(fd int) error { return unix.Fchmodat(unix.AT_FDCWD, ProcPath(fd), mode, 0) })
	f.forgetAttributes(n)
	return err
}

// ChangedBy takes them away from a file that who made a request changed in a way of which the kernel
// does not say whether it takes them: it does from everybody but root.
func (f *Directory) ChangedBy(n *Inode, in *fuse.InHeader) error {
	if in.Uid == 0 {
		return nil
	}
	return f.KillPrivileges(n)
}

func HasPrivileges(mode uint32) bool {
	return mode&unix.S_ISUID != 0 || mode&(unix.S_ISGID|unix.S_IXGRP) == unix.S_ISGID|unix.S_IXGRP
}
