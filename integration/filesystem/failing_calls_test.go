//go:build linux

package filesystem

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// injected are the system calls that are made to fail while something is made. Without unlinkat(2) nothing can be
// taken away again, and without read(2) and write(2) nothing is answered.
var injected = []string{
	"openat", "newfstatat", "fstat", "statx", "fcntl", "name_to_handle_at", "open_by_handle_at", "ioctl", "pwrite64", "pread64", "getxattr",
	"fchmodat", "linkat", "mkdirat", "symlinkat", "mknodat", "renameat2", "setresuid", "fallocate", "pidfd_open",
}

// TestWhatFailsLeavesNothing: whichever system call of the server fails while an entry is made, and however often, an
// entry that was refused is not there, and one that was not is.
func TestWhatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "strace")
	dir := t.TempDir()
	m := harness.MountOver(t, dir)
	create := func(flags int) func(path string) error {
		return func(path string) error {
			fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|flags, 0o644)
			if err == nil {
				unix.Close(fd) // its errors are of FLUSH, which makes nothing
			}
			return err
		}
	}
	old, moved := m.Path("old"), m.Path("moved")
	if err := create(0)(old); err != nil {
		t.Fatal(err)
	}
	operations := map[string]func(path string) error{
		"create": create(0), "exclusive": create(unix.O_EXCL),
		"mkdir":   func(path string) error { return unix.Mkdir(path, 0o755) },
		"symlink": func(path string) error { return unix.Symlink("text", path) },
		"mknod":   func(path string) error { return unix.Mknod(path, unix.S_IFIFO|0o644, 0) },
		"link":    func(path string) error { return unix.Link(old, path) },
		"rename": func(path string) error {
			if err := create(0)(moved); err != nil {
				return nil // this is about the name it gets
			}
			return unix.Rename(moved, path)
		},
	}
	failed := 0
	for _, call := range injected {
		// All of a thread's calls; every second and third, so that later steps are reached.
		for _, when := range []string{"1+", "1+2", "2+2", "3+3"} {
			stop := inject(m, call, when)
			n := 0
			for round := range 2 {
				for operation, do := range operations {
					for _, suffix := range []string{"", ".lock"} {
						name := fmt.Sprintf("%s%d%s", operation, round, suffix)
						err := do(m.Path(name))
						_, there := os.Lstat(m.Path(name))
						switch {
						case err != nil && there == nil:
							t.Errorf("%s %s fails: %s: %v, but it is there", call, when, name, err)
						case err == nil && errors.Is(there, fs.ErrNotExist) && operation != "rename":
							t.Errorf("%s %s fails: %s was made, but is not there", call, when, name)
						}
						if err != nil {
							n++
						}
					}
				}
			}
			stop()
			failed += n
			entries, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				if entry.Name() != filepath.Base(old) {
					if err := os.Remove(m.Path(entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s %s failed: %v", call, when, err)
					}
				}
			}
			for name := range m.Locks() {
				t.Errorf("%s %s failed: %s is a lock without a file", call, when, name)
			}
		}
	}
	if failed < 100 {
		t.Errorf("only %d operations failed: nothing was injected", failed)
	}
}

// inject makes a system call of the server fail with EIO, as often as when says (strace(1)), until stop.
func inject(m *harness.Mount, call, when string) (stop func()) {
	m.T.Helper()
	trace := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(m.Server()), "-e", "trace="+call,
		"-e", "inject="+call+":error=EIO:when="+when)
	if err := trace.Start(); err != nil {
		m.T.Fatal(err)
	}
	tracer := fmt.Sprintf("TracerPid:\t%d\n", trace.Process.Pid)
	harness.Eventually(m.T, "the server is traced", func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", m.Server()))
		for _, task := range tasks {
			if text, err := os.ReadFile(task); err == nil && !bytes.Contains(text, []byte(tracer)) {
				return false
			}
		}
		return len(tasks) > 0
	})
	return func() {
		_ = trace.Process.Signal(unix.SIGTERM)
		_ = trace.Wait()
	}
}
