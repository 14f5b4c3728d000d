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

// needed are the capabilities that a mount for other users needs (capabilities(7)).
var needed = []uintptr{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, // access their files
	unix.CAP_MKNOD, unix.CAP_SETFCAP, // create devices and file capabilities for callers that may
	unix.CAP_SETUID, unix.CAP_SETGID, // create files as the caller
	unix.CAP_SYS_PTRACE,   // read /proc/PID of all callers, and take the descriptors of a dead server
	unix.CAP_SYS_RESOURCE, // raise the limit of descriptors
	unix.CAP_SYS_ADMIN,    // mount, passthrough, trusted attributes
}

// keeps reports whether the processes of a mount keep the capability. If pidfds do not tell how a process ended, the
// connector does, which needs CAP_NET_ADMIN.
func keeps(c uintptr) bool {
	return slices.Contains(needed, c) || c == unix.CAP_NET_ADMIN && !bootid.PidfdTellsExit()
}

// dropPrivileges drops the other capabilities of root, for this process and its children. Capabilities belong to a
// thread, so after it has dropped any from the bounding set, the process executes its program again.
func dropPrivileges() error {
	if os.Geteuid() != 0 {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dropped := false
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if err != nil { // the kernel does not know this capability
			break
		}
		if has == 0 || keeps(c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); errors.Is(err, unix.EPERM) {
			return nil // not permitted, as in a container
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
	return fmt.Errorf("restart with fewer capabilities: %w", unix.Exec(program, os.Args, os.Environ()))
}
