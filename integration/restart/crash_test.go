//go:build linux

package restart

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/failpoint"
	"latchfs/integration/harness"
)

// crashing is a mount whose server kills itself once, at a chosen place in its code.
type crashing struct {
	*harness.Mount
	t    *testing.T
	file string // names the place
}

func mountCrashing(t *testing.T) *crashing {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "latchfs")
	flags, err := failpoint.BuildFlags(harness.RepoPath(), dir)
	if err == nil {
		err = harness.Build(program, flags...)
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "crash")
	m := &harness.Mount{T: t, Program: program, Env: []string{"LATCHFS_CRASH_FILE=" + file}}
	return &crashing{m.Over(t.TempDir()), t, file}
}

// planned is a case of TestCrashPoints: system calls in a directory of the mount, during one of which the server
// dies.
type planned struct {
	name string
	op   string // the server's name of the operation
	// prepare runs before the crash is set up, act during it, and check afterwards.
	prepare, act, check func(c *crashing, dir string)
}

func (c *crashing) do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Error(err)
	}
}

func (c *crashing) is(errno unix.Errno, err error) {
	c.t.Helper()
	if !errors.Is(err, errno) {
		c.t.Errorf("%v, not %v", err, errno)
	}
}

func (c *crashing) write(path, text string) {
	c.t.Helper()
	c.do(os.WriteFile(path, []byte(text), 0o644))
}

func (c *crashing) holds(path, text string) {
	c.t.Helper()
	harness.CheckContent(c.t, path, text)
}

func (c *crashing) gone(paths ...string) {
	c.t.Helper()
	for _, path := range paths {
		if harness.Exists(path) {
			c.t.Errorf("%s is there", filepath.Base(path))
		}
	}
}

// held checks that the test holds exactly these locks in dir.
func (c *crashing) held(dir string, names ...string) {
	c.t.Helper()
	var held []string
	for name, l := range c.Locks() {
		if rest, ok := strings.CutPrefix(name, filepath.Base(dir)+"/"); ok && l.Verdict == "live" && l.Holder.PID == os.Getpid() {
			held = append(held, rest)
		}
	}
	slices.Sort(held)
	if !slices.Equal(held, names) {
		c.t.Errorf("held: %v, not %v", held, names)
	}
}

func (c *crashing) take(path string) {
	c.t.Helper()
	c.do(harness.Take(path, strconv.Itoa(os.Getpid())+"\n"))
}

func (c *crashing) lists(dir string) {
	c.t.Helper()
	entries, err := os.ReadDir(dir)
	if c.do(err); len(entries) != 1 {
		c.t.Errorf("%d entries", len(entries))
	}
}

// happened waits for a crash outside of all system calls.
func (c *crashing) happened() {
	c.t.Helper()
	harness.Eventually(c.t, "the server has crashed", func() bool { return !harness.Exists(c.file) })
}

// TestCrashPoints checks that the result is the same whatever the server is doing when it dies.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	c := mountCrashing(t)
	handles := func() (n int) {
		text, err := os.ReadFile(c.Path(".latchfs/status"))
		if err != nil {
			t.Error(err)
		}
		_, rest, _ := bytes.Cut(text, []byte(`"handles": `))
		_, _ = fmt.Sscan(string(rest), &n)
		return n
	}
	for i, p := range crashCases {
		for _, point := range []string{"before", "after", "reply"} {
			if point == "after" && slices.Contains([]string{"lookup", "open", "opendir", "readdirplus", "tmpfile"}, p.op) {
				continue // these have no such point, because they may be done twice
			}
			t.Run(p.name+"/"+point, func(t *testing.T) {
				c.t = t
				dir := c.Path(fmt.Sprintf("%d-%s", i, point))
				c.do(unix.Mkdir(dir, 0o755))
				if p.prepare != nil {
					p.prepare(c, dir)
				}
				if err := os.WriteFile(c.file, []byte(p.op+" "+point), 0o600); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(c.file)
				p.act(c, dir)
				if harness.Exists(c.file) {
					t.Error("the server did not crash")
				}
				if p.check != nil {
					p.check(c, dir)
				}
			})
		}
	}
	c.t = t
	if got := len(c.Logged("the server has died")); got < 3*len(crashCases)/2 {
		t.Errorf("the server has died %d times only", got)
	}
	harness.Eventually(t, "nothing is open any more", func() bool { return handles() == 0 })
	if len(c.Logged("mounting again")) != 0 {
		t.Error("it was mounted anew")
	}
}

// TestPanic checks that a request whose handler panics is answered with EIO, once, and that everything else goes
// on.
func TestPanic(t *testing.T) {
	t.Parallel()
	c := mountCrashing(t)
	c.write(c.Path("file"), "text")
	c.do(os.Mkdir(c.Path("dir"), 0o755))
	c.take(c.Path("held.lock"))
	open, err := os.OpenFile(c.Path("open"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for op, act := range map[string]func() error{
		"lookup":  func() error { return unix.Access(c.Path("dir/missing"), unix.F_OK) },
		"create":  func() error { return harness.Take(c.Path("x.lock"), harness.OwnPID()) },
		"mkdir":   func() error { return unix.Mkdir(c.Path("new"), 0o755) },
		"symlink": func() error { return unix.Symlink("to", c.Path("symlink")) },
		"link":    func() error { return unix.Link(c.Path("file"), c.Path("link")) },
		"unlink":  func() error { return unix.Unlink(c.Path("file")) },
		"rename":  func() error { return unix.Rename(c.Path("file"), c.Path("renamed")) },
		"open": func() error {
			fd, err := unix.Open(c.Path("file"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		},
		"opendir": func() error { _, err := os.ReadDir(c.Path("dir")); return err },
	} {
		died := len(c.Logged("the server has died"))
		c.write(c.file, op+" before panic")
		if err := act(); !errors.Is(err, unix.EIO) {
			t.Errorf("%s: %v, not EIO", op, err)
		}
		c.do(os.Remove(c.file))
		if n := len(c.Logged("the server has died")) - died; n != 1 {
			t.Errorf("%s: the server died %d times", op, n)
		}
		c.holds(c.Path("file"), "text")
		c.gone(c.Path("new"), c.Path("link"), c.Path("symlink"), c.Path("renamed"), c.Path("x.lock"))
		c.is(unix.EEXIST, harness.Take(c.Path("held.lock"), "other"))
		_, err := open.WriteString(op + "\n")
		c.do(err)
	}
	if len(c.Logged("met a defect of latchfs")) != 9 {
		t.Error("not every panic was logged")
	}
	// The same for a panic outside of a handler.
	for range 3 {
		c.EndServer(unix.SIGSEGV)
		c.WaitUntilServed()
		c.is(unix.EEXIST, harness.Take(c.Path("held.lock"), "other"))
	}
	c.do(unix.Unlink(c.Path("held.lock")))
}
