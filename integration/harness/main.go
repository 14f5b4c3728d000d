//go:build linux

package harness

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Latchfs is the path of the program under test. Main builds it, with the race detector if the tests have it.
// Every user may run it, because some tests mount as another user or in another namespace.
var Latchfs string

// Main is the body of TestMain in every package of integration tests. It builds latchfs and runs the tests.
//
// Tests run their own binary again as helper processes. HelperVariable is set in these, and Main then runs that
// helper instead of the tests: a Process of this package, or one of the package's own helpers.
func Main(m *testing.M, helpers map[string]func()) {
	if name := os.Getenv(HelperVariable); name != "" {
		helper := helpers[name]
		if name == "locker" {
			helper = locker
		}
		if helper == nil {
			fmt.Fprintln(os.Stderr, "no such helper:", name)
			os.Exit(2)
		}
		helper()
		os.Exit(0)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "latchfs-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	Latchfs = filepath.Join(dir, "latchfs")
	if err := Build(Latchfs); err != nil {
		fmt.Fprintln(os.Stderr, "build latchfs:", err)
		return 1
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// Build builds latchfs with more arguments for "go build", and with the race detector if the tests have it.
func Build(program string, args ...string) error {
	if RaceEnabled {
		args = append(args, "-race")
	}
	return goBuild(program, os.Environ(), args...)
}

// BuildStatic builds a latchfs that needs no libraries, for virtual machines, and returns its path.
func BuildStatic(t *testing.T, args ...string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "latchfs")
	if err := goBuild(program, append(os.Environ(), "CGO_ENABLED=0"), args...); err != nil {
		t.Fatal(err)
	}
	return program
}

// goBuild builds latchfs in its own module, with the versions of other modules that users get.
func goBuild(program string, env []string, args ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-C", RepoPath(), "-o", program}, args...), "./cmd/latchfs")...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// NeedFUSE skips the test if the user may not mount or the kernel has no FUSE. In CI the test fails instead.
func NeedFUSE(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "mounting without fusermount3 takes root"
	} else if file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		reason = err.Error()
	} else {
		file.Close()
	}
	FailOrSkip(t, reason)
}

// FailOrSkip fails the test in CI and skips it elsewhere, with the reason. It does nothing if reason is empty.
func FailOrSkip(t *testing.T, reason string) {
	t.Helper()
	if reason == "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test must not be skipped in CI: ", reason)
	}
	t.Skip(reason)
}

// NeedProgram skips the test if a program of the system is not installed. In CI the test fails instead.
// "make deps" installs all of them.
func NeedProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		FailOrSkip(t, err.Error()+"; run make deps")
	}
}
