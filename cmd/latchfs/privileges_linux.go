package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"latchfs/bootid"
)

// needed are the capabilities that serving other users takes (capabilities(7)).
var needed = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, // their files
	unix.CAP_MKNOD, unix.CAP_SETFCAP, // what they may make, if they may
	unix.CAP_SETUID, unix.CAP_SETGID, // make files as they would
	unix.CAP_SYS_PTRACE,   // who they are: /proc/PID of all; and the descriptors of a dead server
	unix.CAP_SYS_RESOURCE, // as many descriptors as files
	unix.CAP_SYS_ADMIN,    // mount, passthrough, trusted attributes
}

// keeps says that a process of a mount keeps the capability. To hear how processes ended takes one more
// where the kernel has no better way to tell.
func keeps(c uintptr) bool {
	return slices.Contains(needed, c) || c == unix.CAP_NET_ADMIN && !bootid.PidfdTellsExit()
}

// dropPrivileges gives up what root has beside, for this process and all it starts. That is done once:
// the process replaces itself by its program, since capabilities are those of a thread.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dropped := false
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil { // a kernel that does not know so many
			break
		}
		if has == 0 || keeps(c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EPERM) {
			return nil // not ours to say, as in a container
		} else if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
		dropped = true
	}
	if !dropped {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("start anew with fewer capabilities: %w", unix.Exec(program, os.Args, os.Environ()))
}
