//go:build linux

package cli

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/bootid"

	"latchfs/integration/harness"
)

// TestCapabilities checks that all processes of a mount have the capabilities that the README lists, and no
// others.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	var allowed uint64
	for _, c := range []int{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_MKNOD,
		unix.CAP_SETFCAP, unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SYS_PTRACE, unix.CAP_SYS_RESOURCE, unix.CAP_SYS_ADMIN,
	} {
		allowed |= 1 << c
	}
	if !bootid.PidfdTellsExit() {
		allowed |= 1 << unix.CAP_NET_ADMIN
	}
	m := harness.MountOver(t, t.TempDir())
	check := func() {
		var pids []int
		harness.Eventually(t, "there are keeper, server and descriptor keeper", func() bool {
			// Another process waits later for a descriptor keeper whose server has died.
			pids = slices.DeleteFunc(append(m.ServerProcesses(), m.Keeper.Process.Pid), harness.HasEnded)
			return len(pids) == 3
		})
		for _, pid := range pids {
			threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			if err != nil {
				t.Fatal(err)
			}
			for _, thread := range threads {
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", pid, thread.Name()))
				if err != nil {
					continue // the process has ended
				}
				for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
					text := regexp.MustCompile(set + `:\s+([0-9a-f]+)`).FindSubmatch(status)
					if text == nil {
						t.Fatalf("%s of %d: %s", set, pid, status)
					}
					if has, err := strconv.ParseUint(string(text[1]), 16, 64); err != nil || has&^allowed != 0 {
						t.Errorf("process %d: %s %x, %v", pid, set, has&^allowed, err)
					}
				}
			}
		}
	}
	check()
	m.KillServer()
	m.WaitUntilServed()
	check()
}
