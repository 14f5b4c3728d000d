//go:build linux

package restart

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

var workers = map[string]func(*worker) job{
	"lock": lockOwn, "contend": lockShared, "payload": lockAppend, "append": appendSession, "replace": replaceFile,
	"tree": makeTrees, "list": listFiles, "mmap": mapFile, "unlinked": unlinkedFile, "attr": attributes, "names": makeNames,
	"git": gitCommits, "sqlite": sqliteRows, "read": readFiles,
}

// lockOwn takes and releases a lock that no other worker wants, in one of four ways.
func lockOwn(w *worker) job {
	payload := []byte(strconv.Itoa(os.Getpid()) + "\n")
	path := w.path("own.lock")
	return job{round: func() {
		switch w.rounds % 4 {
		case 0:
			fd := w.open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
			w.write(fd, payload)
			w.close(fd)
			w.same("payload", w.read(path), payload)
			w.fails("open", unix.EEXIST, func() error { _, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644); return err })
			w.unlink(path)
		case 1:
			w.do("mkdir", func() error { return unix.Mkdir(path, 0o755) })
			w.fails("mkdir", unix.EEXIST, func() error { return unix.Mkdir(path, 0o755) })
			w.do("rmdir", func() error { return unix.Rmdir(path) })
		case 2:
			w.do("symlink", func() error { return unix.Symlink("pid:"+strconv.Itoa(os.Getpid()), path) })
			w.unlink(path)
		case 3:
			fd := w.open(w.path("temporary"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
			w.write(fd, payload)
			w.close(fd)
			w.do("link", func() error { return unix.Link(w.path("temporary"), path) })
			w.unlink(w.path("temporary"))
			w.do("rename", func() error { return unix.Rename(path, w.path("other.lock")) })
			w.same("payload", w.read(w.path("other.lock")), payload)
			w.unlink(w.path("other.lock"))
		}
		w.fails("stat", unix.ENOENT, func() error { return unix.Lstat(path, &unix.Stat_t{}) })
	}}
}

// lockShared takes a lock that other workers want. The holder makes a directory outside of the mount, where two
// holders would meet.
func lockShared(w *worker) job {
	path, witness := filepath.Join(w.shared, "shared.lock"), filepath.Join(w.outside, "holder")
	return job{round: func() {
		var fd int
		err := w.call("open", func() (err error) {
			fd, err = unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
			return err
		})
		if err == unix.EEXIST {
			time.Sleep(time.Duration(w.random.IntN(int(time.Millisecond))))
			return
		}
		w.must("take", err)
		w.write(fd, []byte(strconv.Itoa(os.Getpid())))
		w.close(fd)
		w.must("two holders", unix.Mkdir(witness, 0o755))
		time.Sleep(time.Duration(w.random.IntN(int(500 * time.Microsecond))))
		w.must("two holders", unix.Rmdir(witness))
		w.unlink(path)
	}}
}

// lockAppend appends to a lock file that it has open. Every write passes through the server.
func lockAppend(w *worker) job {
	path, fd, want := w.path("log.lock"), -1, []byte(nil)
	return job{round: func() {
		if w.rounds%200 == 0 {
			if fd >= 0 {
				w.close(fd)
				w.unlink(path)
			}
			fd, want = w.open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_APPEND), nil
		}
		line := fmt.Appendf(nil, "%d %d\n", os.Getpid(), w.rounds)
		w.write(fd, line)
		want = append(want, line...)
		w.same("the lock's content", w.read(path), want)
	}, check: func() { // a lock that names its holder would stay when the worker exits
		w.close(fd)
		w.unlink(path)
	}}
}

// appendSession appends to a session file that stays open.
func appendSession(w *worker) job {
	fd, count := w.open(w.path("session.jsonl"), unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND), 0
	return job{round: func() {
		w.write(fd, fmt.Appendf(nil, "{\"message\":%d}\n", count))
		count++
		if w.rounds%64 == 0 {
			w.do("fsync", func() error { return unix.Fsync(fd) })
		}
	}, check: func() {
		var want []byte
		for i := range count {
			want = fmt.Appendf(want, "{\"message\":%d}\n", i)
		}
		w.same("the session", w.read(w.path("session.jsonl")), want)
	}}
}

// replaceFile writes a new file and renames it over the old one.
func replaceFile(w *worker) job {
	return job{round: func() {
		text := bytes.Repeat([]byte(strconv.Itoa(w.rounds)+" "), 1+w.random.IntN(2000))
		fd := w.open(w.path("new"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
		w.write(fd, text)
		w.do("fsync", func() error { return unix.Fsync(fd) })
		w.close(fd)
		w.do("rename", func() error { return unix.Rename(w.path("new"), w.path("state.json")) })
		w.same("what was renamed", w.read(w.path("state.json")), text)
	}}
}

// makeTrees makes directories with files and a held lock, moves them, exchanges them and removes them.
func makeTrees(w *worker) job {
	return job{round: func() {
		a, b := w.path("a"), w.path("b")
		for _, dir := range []string{a, b} {
			w.do("mkdir", func() error { return unix.Mkdir(dir, 0o755) })
			fd := w.open(filepath.Join(dir, "in.lock"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY)
			w.write(fd, []byte(strconv.Itoa(os.Getpid())+" "+dir))
			w.close(fd)
		}
		w.do("exchange", func() error { return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) })
		w.same("what was exchanged", w.read(filepath.Join(a, "in.lock")), []byte(strconv.Itoa(os.Getpid())+" "+b))
		w.do("rename", func() error { return unix.Rename(a, w.path("c")) })
		w.fails("open", unix.EEXIST, func() error {
			_, err := unix.Open(w.path("c/in.lock"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
			return err
		})
		w.fails("rmdir", unix.ENOTEMPTY, func() error { return unix.Rmdir(w.path("c")) })
		for _, dir := range []string{w.path("c"), b} {
			w.unlink(filepath.Join(dir, "in.lock"))
			w.do("rmdir", func() error { return unix.Rmdir(dir) })
		}
	}}
}

// listFiles lists a directory with many files that stay, and one that comes and goes.
func listFiles(w *worker) job {
	const files = 300
	for i := range files {
		w.close(w.open(w.path(fmt.Sprintf("file-%03d", i)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY))
	}
	return job{round: func() {
		w.close(w.open(w.path("fleeting"), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY))
		var names []string
		w.do("list", func() error {
			entries, err := os.ReadDir(w.dir)
			for _, entry := range entries {
				names = append(names, entry.Name())
			}
			return err
		})
		if len(names) != files+1 || !slices.Contains(names, "fleeting") || len(slices.Compact(names)) != files+1 {
			w.must("list", fmt.Errorf("%d names", len(names)))
		}
		name := w.path(names[w.random.IntN(files)])
		w.do("stat", func() error { return unix.Stat(name, &unix.Stat_t{}) })
		w.unlink(w.path("fleeting"))
	}}
}

// mapFile writes and reads a mapped file.
func mapFile(w *worker) job {
	const size = 64 << 10
	fd := w.open(w.path("mapped"), unix.O_CREAT|unix.O_RDWR)
	w.do("truncate", func() error { return unix.Ftruncate(fd, size) })
	memory, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	w.must("mmap", err)
	model := make([]byte, size)
	return job{round: func() {
		at := w.random.IntN(size - 8)
		copy(memory[at:], fmt.Sprintf("%07d", w.rounds%1e7))
		copy(model[at:], memory[at:at+7])
		if w.rounds%16 == 0 {
			w.do("msync", func() error { return unix.Msync(memory, unix.MS_SYNC) })
			w.same("the mapped file", w.read(w.path("mapped")), model)
			time.Sleep(time.Millisecond)
		}
	}}
}

// unlinkedFile uses files that have been unlinked, one of which was never opened with a passthrough descriptor.
func unlinkedFile(w *worker) job {
	fds, models := [2]int{-1, -1}, [2][]byte{}
	return job{round: func() {
		if w.rounds%100 == 0 {
			for i, name := range []string{"gone", "gone.lock"} {
				if fds[i] >= 0 {
					w.close(fds[i])
				}
				fds[i], models[i] = w.open(w.path(name), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_APPEND), nil
				w.unlink(w.path(name))
			}
		}
		for i, fd := range fds {
			line := fmt.Appendf(nil, "%d\n", w.rounds)
			w.write(fd, line)
			models[i] = append(models[i], line...)
			got := make([]byte, len(models[i])+10)
			w.do("pread", func() error {
				n, err := unix.Pread(fd, got, 0)
				got = got[:max(n, 0)]
				return err
			})
			w.same("a file without a name", got, models[i])
			var st unix.Stat_t
			w.do("fstat", func() error { return unix.Fstat(fd, &st) })
			if st.Nlink != 0 || st.Size != int64(len(models[i])) {
				w.must("fstat", fmt.Errorf("%d links, %d bytes", st.Nlink, st.Size))
			}
		}
	}}
}

// attributes changes attributes of files.
func attributes(w *worker) job {
	path := w.path("file")
	w.close(w.open(path, unix.O_CREAT|unix.O_WRONLY))
	return job{round: func() {
		value := []byte(strconv.Itoa(w.rounds))
		w.do("setxattr", func() error { return unix.Setxattr(path, "user.test", value, unix.XATTR_CREATE) })
		got := make([]byte, 32)
		w.do("getxattr", func() error {
			n, err := unix.Getxattr(path, "user.test", got)
			got = got[:max(n, 0)]
			return err
		})
		w.same("the attribute", got, value)
		w.do("removexattr", func() error { return unix.Removexattr(path, "user.test") })
		w.do("chmod", func() error { return unix.Chmod(path, uint32(0o600+w.rounds%64)) })
		size := int64(w.random.IntN(10000))
		w.do("truncate", func() error { return unix.Truncate(path, size) })
		when := []unix.Timespec{{Sec: int64(w.rounds)}, {Sec: int64(w.rounds)}}
		w.do("utimensat", func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, when, 0) })
		var st unix.Stat_t
		w.do("stat", func() error { return unix.Stat(path, &st) })
		if st.Mode&0o777 != uint32(0o600+w.rounds%64) || st.Size != size || st.Mtim.Sec != int64(w.rounds) {
			w.must("stat", fmt.Errorf("mode %o, %d bytes, time %d", st.Mode, st.Size, st.Mtim.Sec))
		}
	}}
}

// makeNames makes, links and removes files in all ways that create names.
func makeNames(w *worker) job {
	return job{round: func() {
		a, b := w.path("a"), w.path("b")
		w.do("mknod", func() error { return unix.Mknod(a, unix.S_IFREG|0o644, 0) })
		w.do("link", func() error { return unix.Link(a, b) })
		w.fails("link", unix.EEXIST, func() error { return unix.Link(a, b) })
		w.do("symlink", func() error { return unix.Symlink("a", w.path("s")) })
		target := make([]byte, 10)
		w.do("readlink", func() error {
			n, err := unix.Readlink(w.path("s"), target)
			target = target[:max(n, 0)]
			return err
		})
		w.same("the link", target, []byte("a"))
		fd := w.open(w.dir, unix.O_TMPFILE|unix.O_RDWR)
		w.write(fd, []byte("no name"))
		w.do("linkat", func() error {
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, w.path("t"), unix.AT_SYMLINK_FOLLOW)
		})
		w.close(fd)
		w.same("what got a name", w.read(w.path("t")), []byte("no name"))
		for _, name := range []string{"a", "b", "s", "t"} {
			w.unlink(w.path(name))
		}
		w.fails("unlink", unix.ENOENT, func() error { return unix.Unlink(a) })
	}}
}

// readFiles reads files that had another name a moment ago.
func readFiles(w *worker) job {
	text := bytes.Repeat([]byte("content "), 4096)
	w.must("write", os.WriteFile(w.path("file0"), text, 0o644))
	return job{round: func() {
		next := w.path(fmt.Sprintf("file%d", w.rounds%5+1))
		w.do("rename", func() error { return unix.Rename(w.path(fmt.Sprintf("file%d", w.rounds%5)), next) })
		if w.rounds%5 == 4 {
			w.do("rename", func() error { return unix.Rename(next, w.path("file0")) })
			next = w.path("file0")
		}
		w.same("the file", w.read(next), text)
	}}
}

// gitCommits makes commits with git.
func gitCommits(w *worker) job {
	w.run("git", "init", "-q", ".")
	commits := 0
	return job{round: func() {
		w.must("write", os.WriteFile(w.path("file"), []byte(strconv.Itoa(w.rounds)), 0o644))
		w.run("git", "add", "file")
		w.run("git", "commit", "-q", "-m", strconv.Itoa(w.rounds))
		commits++
	}, check: func() {
		if got := w.run("git", "rev-list", "--count", "HEAD"); got != strconv.Itoa(commits) {
			w.must("git", fmt.Errorf("%s commits, not %d", got, commits))
		}
		w.run("git", "fsck", "--strict")
	}}
}

// sqliteRows adds rows to a SQLite database in WAL mode.
func sqliteRows(w *worker) job {
	w.run("sqlite3", "db", "pragma journal_mode=wal; create table t(n integer);")
	rows := 0
	return job{round: func() {
		w.run("sqlite3", "db", ".timeout 10000", fmt.Sprintf("begin immediate; insert into t values(%d); insert into t values(%d); commit;", rows, rows+1))
		rows += 2
	}, check: func() {
		got := w.run("sqlite3", "db", "pragma integrity_check; select count(*), count(distinct n), max(n) from t;")
		if want := fmt.Sprintf("ok\n%d|%d|%d", rows, rows, rows-1); got != want {
			w.must("sqlite3", fmt.Errorf("%q, not %q", got, want))
		}
	}}
}
