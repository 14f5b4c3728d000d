//go:build linux

package restart

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

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
