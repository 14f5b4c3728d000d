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
	if err := harness.Build(program, "-tags", "crashtest"); err != nil {
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

var crashCases = []planned{
	{"create", "create", nil, func(c *crashing, dir string) {
		fd, err := unix.Open(dir+"/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o640)
		c.do(err)
		_, err = unix.Write(fd, []byte("text"))
		c.do(err)
		c.do(unix.Close(fd))
	}, func(c *crashing, dir string) { c.holds(dir+"/new", "text") }},
	{"create what may not be written", "create", nil, func(c *crashing, dir string) {
		fd, err := unix.Open(dir+"/new", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o400)
		c.do(err)
		_, err = unix.Write(fd, []byte("text"))
		c.do(err)
		c.do(unix.Close(fd))
	}, func(c *crashing, dir string) {
		var st unix.Stat_t
		c.do(unix.Stat(dir+"/new", &st))
		if st.Mode&0o777 != 0o400 {
			c.t.Errorf("mode %o", st.Mode)
		}
	}},
	{"create without O_EXCL", "create", nil, func(c *crashing, dir string) { c.write(dir+"/new", "text") },
		func(c *crashing, dir string) { c.holds(dir+"/new", "text") }},
	{"take a lock", "create", nil, func(c *crashing, dir string) { c.take(dir + "/x.lock") }, func(c *crashing, dir string) {
		c.is(unix.EEXIST, harness.Take(dir+"/x.lock", "other"))
		c.holds(dir+"/x.lock", harness.OwnPID())
		c.held(dir, "x.lock")
	}},
	{"mkdir", "mkdir", nil, func(c *crashing, dir string) { c.do(unix.Mkdir(dir+"/new", 0o755)) },
		func(c *crashing, dir string) { c.is(unix.EEXIST, unix.Mkdir(dir+"/new", 0o755)) }},
	{"mkdir a lock", "mkdir", nil, func(c *crashing, dir string) { c.do(unix.Mkdir(dir+"/x.lock", 0o755)) }, func(c *crashing, dir string) {
		c.is(unix.EEXIST, unix.Mkdir(dir+"/x.lock", 0o755))
		c.held(dir, "x.lock")
	}},
	{"mknod", "mknod", nil, func(c *crashing, dir string) { c.do(unix.Mknod(dir+"/fifo", unix.S_IFIFO|0o600, 0)) }, func(c *crashing, dir string) {
		var st unix.Stat_t
		if c.do(unix.Lstat(dir+"/fifo", &st)); st.Mode != unix.S_IFIFO|0o600 {
			c.t.Errorf("mode %o", st.Mode)
		}
	}},
	{"symlink", "symlink", nil, func(c *crashing, dir string) { c.do(unix.Symlink("target", dir+"/new")) }, func(c *crashing, dir string) {
		if target, err := os.Readlink(dir + "/new"); target != "target" {
			c.t.Error(target, err)
		}
	}},
	{"symlink a lock", "symlink", nil, func(c *crashing, dir string) { c.do(unix.Symlink(strings.TrimSpace(harness.OwnPID()), dir+"/x.lock")) },
		func(c *crashing, dir string) { c.held(dir, "x.lock") }},
	{"link", "link", func(c *crashing, dir string) { c.write(dir+"/file", "text") },
		func(c *crashing, dir string) { c.do(unix.Link(dir+"/file", dir+"/new")) }, func(c *crashing, dir string) {
			var st unix.Stat_t
			if c.do(unix.Stat(dir+"/file", &st)); st.Nlink != 2 {
				c.t.Errorf("%d links", st.Nlink)
			}
		}},
	{"link a lock", "link", func(c *crashing, dir string) { c.write(dir+"/file", harness.OwnPID()) },
		func(c *crashing, dir string) { c.do(unix.Link(dir+"/file", dir+"/x.lock")) }, func(c *crashing, dir string) {
			c.is(unix.EEXIST, unix.Link(dir+"/file", dir+"/x.lock"))
			c.held(dir, "x.lock")
		}},
	{"unlink", "unlink", func(c *crashing, dir string) { c.write(dir+"/file", "text") },
		func(c *crashing, dir string) { c.do(unix.Unlink(dir + "/file")) }, func(c *crashing, dir string) { c.gone(dir + "/file") }},
	{"release a lock", "unlink", func(c *crashing, dir string) { c.take(dir + "/x.lock") },
		func(c *crashing, dir string) { c.do(unix.Unlink(dir + "/x.lock")) }, func(c *crashing, dir string) {
			c.held(dir)
			c.take(dir + "/x.lock")
		}},
	{"rmdir", "rmdir", func(c *crashing, dir string) { c.do(unix.Mkdir(dir+"/sub", 0o755)) },
		func(c *crashing, dir string) { c.do(unix.Rmdir(dir + "/sub")) }, func(c *crashing, dir string) { c.gone(dir + "/sub") }},
	{"rmdir what is not empty", "rmdir", func(c *crashing, dir string) {
		c.do(unix.Mkdir(dir+"/sub", 0o755))
		c.write(dir+"/sub/file", "text")
	}, func(c *crashing, dir string) { c.is(unix.ENOTEMPTY, unix.Rmdir(dir+"/sub")) }, func(c *crashing, dir string) { c.holds(dir+"/sub/file", "text") }},
	{"rmdir a lock", "rmdir", func(c *crashing, dir string) { c.do(unix.Mkdir(dir+"/x.lock", 0o755)) },
		func(c *crashing, dir string) { c.do(unix.Rmdir(dir + "/x.lock")) }, func(c *crashing, dir string) { c.held(dir) }},
	{"rename", "rename", func(c *crashing, dir string) { c.write(dir+"/old", "text") },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/old", dir+"/new")) }, func(c *crashing, dir string) {
			c.gone(dir + "/old")
			c.holds(dir+"/new", "text")
		}},
	{"rename onto another", "rename", func(c *crashing, dir string) { c.write(dir+"/old", "text"); c.write(dir+"/new", "before") },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/old", dir+"/new")) }, func(c *crashing, dir string) {
			c.gone(dir + "/old")
			c.holds(dir+"/new", "text")
		}},
	{"rename without replacing", "rename", func(c *crashing, dir string) { c.write(dir+"/old", "text") }, func(c *crashing, dir string) {
		c.do(unix.Renameat2(unix.AT_FDCWD, dir+"/old", unix.AT_FDCWD, dir+"/new", unix.RENAME_NOREPLACE))
	}, func(c *crashing, dir string) { c.holds(dir+"/new", "text") }},
	{"exchange", "rename", func(c *crashing, dir string) { c.write(dir+"/a", "1"); c.write(dir+"/b", "2") }, func(c *crashing, dir string) {
		c.do(unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE))
	}, func(c *crashing, dir string) { c.holds(dir+"/a", "2"); c.holds(dir+"/b", "1") }},
	{"rename a lock away", "rename", func(c *crashing, dir string) { c.take(dir + "/index.lock") },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/index.lock", dir+"/index")) }, func(c *crashing, dir string) {
			c.held(dir)
			c.holds(dir+"/index", harness.OwnPID())
			c.take(dir + "/index.lock")
		}},
	{"rename onto a lock name", "rename", func(c *crashing, dir string) { c.write(dir+"/new", harness.OwnPID()) },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/new", dir+"/x.lock")) }, func(c *crashing, dir string) { c.held(dir, "x.lock") }},
	{"rename a lock", "rename", func(c *crashing, dir string) { c.take(dir + "/a.lock") },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/a.lock", dir+"/b.lock")) }, func(c *crashing, dir string) { c.held(dir, "b.lock") }},
	{"replace a held lock", "rename", func(c *crashing, dir string) { c.take(dir + "/x.lock"); c.take(dir + "/x.lock.lock") },
		func(c *crashing, dir string) { c.do(unix.Rename(dir+"/x.lock.lock", dir+"/x.lock")) }, func(c *crashing, dir string) { c.held(dir, "x.lock") }},
	{"rename a directory with locks", "rename", func(c *crashing, dir string) {
		c.do(unix.Mkdir(dir+"/old", 0o755))
		c.take(dir + "/old/x.lock")
		c.do(unix.Mkdir(dir+"/old/sub", 0o755))
		c.take(dir + "/old/sub/y.lock")
	}, func(c *crashing, dir string) { c.do(unix.Rename(dir+"/old", dir+"/new")) }, func(c *crashing, dir string) {
		c.held(dir, "new/sub/y.lock", "new/x.lock")
		c.is(unix.EEXIST, harness.Take(dir+"/new/x.lock", "other"))
	}},
	{"exchange directories with locks", "rename", func(c *crashing, dir string) {
		for _, name := range []string{"/a", "/b"} {
			c.do(unix.Mkdir(dir+name, 0o755))
			c.take(dir + name + name + ".lock")
		}
	}, func(c *crashing, dir string) {
		c.do(unix.Renameat2(unix.AT_FDCWD, dir+"/a", unix.AT_FDCWD, dir+"/b", unix.RENAME_EXCHANGE))
	}, func(c *crashing, dir string) { c.held(dir, "a/b.lock", "b/a.lock") }},
	{"rename a directory onto one that is not empty", "rename", func(c *crashing, dir string) {
		for _, name := range []string{"/a", "/b"} {
			c.do(unix.Mkdir(dir+name, 0o755))
			c.write(dir+name+"/file", name)
		}
	}, func(c *crashing, dir string) { c.is(unix.ENOTEMPTY, unix.Rename(dir+"/a", dir+"/b")) }, func(c *crashing, dir string) { c.holds(dir+"/a/file", "/a") }},
	{"truncate", "truncate", func(c *crashing, dir string) { c.write(dir+"/file", "some text") },
		func(c *crashing, dir string) { c.do(unix.Truncate(dir+"/file", 4)) }, func(c *crashing, dir string) { c.holds(dir+"/file", "some") }},
	{"write at the end of a lock", "write", nil, func(c *crashing, dir string) {
		fd, err := unix.Open(dir+"/x.lock", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
		c.do(err)
		for _, text := range []string{"one\n", "two\n"} {
			n, err := unix.Write(fd, []byte(text))
			if c.do(err); n != len(text) {
				c.t.Errorf("%d bytes", n)
			}
		}
		c.do(unix.Close(fd))
	}, func(c *crashing, dir string) { c.holds(dir+"/x.lock", "one\ntwo\n") }},
	{"setxattr", "setxattr", func(c *crashing, dir string) { c.write(dir+"/file", "") },
		func(c *crashing, dir string) {
			c.do(unix.Setxattr(dir+"/file", "user.test", []byte("value"), unix.XATTR_CREATE))
		}, func(c *crashing, dir string) {
			value := make([]byte, 10)
			if n, err := unix.Getxattr(dir+"/file", "user.test", value); n != 5 {
				c.t.Error(n, err)
			}
		}},
	{"removexattr", "removexattr", func(c *crashing, dir string) {
		c.write(dir+"/file", "")
		c.do(unix.Setxattr(dir+"/file", "user.test", []byte("value"), 0))
	}, func(c *crashing, dir string) { c.do(unix.Removexattr(dir+"/file", "user.test")) }, func(c *crashing, dir string) {
		_, err := unix.Getxattr(dir+"/file", "user.test", nil)
		c.is(unix.ENODATA, err)
	}},
	{"an operator's release", "control", func(c *crashing, dir string) { c.take(dir + "/x.lock") }, func(c *crashing, dir string) {
		ctl, err := os.OpenFile(c.Dir+"/.latchfs/ctl", os.O_WRONLY, 0)
		c.do(err)
		_, err = ctl.WriteString("force-release " + filepath.Base(dir) + "/x.lock")
		c.do(err)
		c.do(ctl.Close())
	}, func(c *crashing, dir string) {
		c.held(dir)
		c.gone(dir + "/x.lock")
	}},
	{"lookup", "lookup", nil, func(c *crashing, dir string) { c.is(unix.ENOENT, unix.Lstat(dir+"/none", &unix.Stat_t{})) }, nil},
	{"open and append", "open", func(c *crashing, dir string) { c.write(dir+"/file", "one\n") }, func(c *crashing, dir string) {
		file, err := os.OpenFile(dir+"/file", os.O_WRONLY|os.O_APPEND, 0)
		c.do(err)
		_, err = file.WriteString("two\n")
		c.do(err)
		c.do(file.Close())
	}, func(c *crashing, dir string) { c.holds(dir+"/file", "one\ntwo\n") }},
	{"open and truncate", "open", func(c *crashing, dir string) { c.write(dir+"/file", "one\n") },
		func(c *crashing, dir string) { c.write(dir+"/file", "two\n") }, func(c *crashing, dir string) { c.holds(dir+"/file", "two\n") }},
	{"opendir", "opendir", func(c *crashing, dir string) { c.write(dir+"/file", "") }, (*crashing).lists, nil},
	{"readdirplus", "readdirplus", func(c *crashing, dir string) { c.write(dir+"/file", "") }, (*crashing).lists, nil},
	{"tmpfile", "tmpfile", nil, func(c *crashing, dir string) {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		c.do(err)
		_, err = unix.Write(fd, []byte("text"))
		c.do(err)
		c.do(unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/new", unix.AT_SYMLINK_FOLLOW))
		c.do(unix.Close(fd))
	}, func(c *crashing, dir string) { c.holds(dir+"/new", "text") }},
	{"close a file", "release", func(c *crashing, dir string) { c.write(dir+"/file", "text") }, func(c *crashing, dir string) {
		c.holds(dir+"/file", "text")
		c.happened()
	}, func(c *crashing, dir string) { c.holds(dir+"/file", "text") }},
	{"close data at a lock name", "release", nil, func(c *crashing, dir string) {
		c.do(harness.Take(dir+"/yarn.lock", "some data\nof many lines\n"))
		c.happened()
	}, func(c *crashing, dir string) {
		harness.Eventually(c.t, "it has settled", func() bool { _, held := c.Locks()[filepath.Base(dir)+"/yarn.lock"]; return !held })
		c.holds(dir+"/yarn.lock", "some data\nof many lines\n")
	}},
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
	if len(c.Logged("mounting anew")) != 0 {
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
