//go:build linux

package vm

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"latchfs/integration/harness"
)

// TestOldKernel runs on Debian 12's kernel (6.1), which cannot resend requests. After the death of a server
// latchfs mounts anew and logs that. Root learns from the kernel's process events how a process ended, other users
// do not. integration/vm/oldkernel runs in the virtual machine.
func TestOldKernel(t *testing.T) {
	if harness.RaceEnabled {
		t.Skip("emulated, the race detector is too slow: make test does it")
	}
	programs := map[string]string{"latchfs": harness.BuildStatic(t), "bootid.test": filepath.Join(t.TempDir(), "bootid.test")}
	build := exec.Command("go", "test", "-C", harness.RepoPath(), "-c", "-o", programs["bootid.test"], "./bootid")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Other users than root mount through this program. It needs its libraries.
	programs["fusermount3"], _ = exec.LookPath("fusermount3")
	libraries, err := exec.Command("ldd", programs["fusermount3"]).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
		programs[".."+path] = path
	}
	m := harness.NewVM(t, "oldkernel", "", programs)
	m.Boot("")
	m.CheckResults(m.ReadUntil("RESULT done"), 18)
}
