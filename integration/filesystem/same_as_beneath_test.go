//go:build linux

package filesystem

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"latchfs/integration/harness"
)

// users are root, a user with the group of a directory, and a user without permissions.
var users = []struct {
	name       string
	credential *syscall.Credential
}{
	{"root", &syscall.Credential{}},
	{"member", &syscall.Credential{Uid: 1001, Gid: 1001, Groups: []uint32{1500}}},
	{"stranger", &syscall.Credential{Uid: 1002, Gid: 1002}},
}

// TestSameAsBeneath runs the same program as the same user in the mount and in a plain directory of the same
// filesystem. Every result, errno and attribute must be the same. RANDOM_SEEDS is the number of seeds of random
// operations, RANDOM_SEED the first.
func TestSameAsBeneath(t *testing.T) {
	t.Parallel()
	for _, operations := range []string{"table", "random"} {
		for _, user := range users {
			t.Run(operations+"/"+user.name, func(t *testing.T) {
				harness.NeedFUSE(t)
				mounted, plain := harness.PublicDir(t), harness.PublicDir(t)
				harness.MakeTree(t, mounted)
				harness.MakeTree(t, plain)
				harness.MountOver(t, mounted)
				seeds := []int{0}
				if operations == "random" {
					seeds = make([]int, harness.EnvNumber(t, "RANDOM_SEEDS", 6))
					for i := range seeds {
						seeds[i] = harness.EnvNumber(t, "RANDOM_SEED", 1) + i
					}
				}
				results := 0
				for _, seed := range seeds {
					want := runOperations(t, operations, plain, seed, user.credential)
					got := runOperations(t, operations, mounted, seed, user.credential)
					if len(want) < 100 {
						t.Fatalf("only %d results:\n%s", len(want), strings.Join(want, "\n"))
					}
					harness.CompareLines(t, seed, got, want)
					harness.CompareLines(t, seed, harness.DumpTree(t, mounted), harness.DumpTree(t, plain))
					results += len(got)
				}
				t.Logf("%d results", results)
			})
		}
	}
}

func runOperations(t *testing.T, operations, dir string, seed int, user *syscall.Credential) []string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Other users cannot reach the test binary itself.
	binary := filepath.Join(harness.PublicDir(t), "operations")
	if out, err := exec.Command("cp", program, binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(binary)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), harness.HelperVariable+"="+operations, "SEED="+strconv.Itoa(seed))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, complaints.String())
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
