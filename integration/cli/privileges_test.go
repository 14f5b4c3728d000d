//go:build linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/bootid"

	"latchfs/integration/harness"
)

// TestCapabilities checks that all processes of a mount have the capabilities that SECURITY.md lists, and no
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

// TestACLClearsSetGroup checks that the set-group-id bit is cleared, as beneath, when an owner outside the file's group sets
// an ACL.
func TestACLClearsSetGroup(t *testing.T) {
	harness.NeedProgram(t, "setfacl")
	modes := func(dir string) (modes []string) {
		for i, groups := range []string{"--clear-groups", "--groups=5"} {
			path := filepath.Join(dir, strconv.Itoa(i))
			if err := errors.Join(os.WriteFile(path, nil, 0o755), os.Chown(path, harness.AttackerUID, 5), os.Chmod(path, 0o755|os.ModeSetgid)); err != nil {
				t.Fatal(err)
			}
			user := strconv.Itoa(harness.AttackerUID)
			cmd := exec.Command("setpriv", "--reuid="+user, "--regid="+user, groups, "--bounding-set=-all", "setfacl", "-m", "u:1:r", path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			modes = append(modes, info.Mode().String())
		}
		return modes
	}
	beneath := modes(harness.SharedDir(t))
	m := harness.MountOver(t, harness.SharedDir(t))
	if got := modes(m.Dir); !slices.Equal(got, beneath) {
		t.Errorf("%v, beneath %v", got, beneath)
	}
}
