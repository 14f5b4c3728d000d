//go:build linux

package filesystem

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// An operator makes operations in its working directory and prints each result.
type operator struct{ random *rand.Rand }

func (o *operator) say(what string, err error, more ...any) {
	answer := "ok"
	if err != nil {
		var errno unix.Errno
		if errors.As(err, &errno) {
			answer = unix.ErrnoName(errno)
		} else {
			answer = "?" + err.Error()
		}
	}
	fmt.Println(append([]any{what, answer}, more...)...)
}

func (o *operator) open(path string, flags int, mode uint32, content string) {
	fd, err := unix.Open(path, flags, mode)
	if err != nil {
		o.say(fmt.Sprintf("open %.60q %x %o", path, flags, mode), err)
		return
	}
	defer unix.Close(fd)
	var n int
	if content != "" {
		n, err = unix.Write(fd, []byte(content))
	}
	var st unix.Stat_t
	statErr := unix.Fstat(fd, &st)
	o.say(fmt.Sprintf("open %.60q %x %o", path, flags, mode), err, n, statErr, fmt.Sprintf("%o", st.Mode), st.Uid, st.Gid, st.Nlink, st.Size)
}

// table makes the operations with known edge cases.
func (o *operator) table() {
	unix.Umask(0o027)
	long := strings.Repeat("n", 255)
	deep := strings.Repeat(strings.Repeat("d", 200)+"/", 25)
	for _, dir := range []string{"open", "sticky", "private", "group", "readable", "setgid", "acl"} {
		in := func(name string) string { return dir + "/" + name }
		for _, mode := range []uint32{0o666, 0o777, 0o000, 0o4755, 0o2755, 0o1777, 0o600} {
			o.open(in(fmt.Sprintf("file-%o", mode)), unix.O_CREAT|unix.O_WRONLY, mode, "content")
			o.say(fmt.Sprintf("mkdir %s %o", dir, mode), unix.Mkdir(in(fmt.Sprintf("dir-%o", mode)), mode))
			o.say("fifo", unix.Mknod(in(fmt.Sprintf("fifo-%o", mode)), unix.S_IFIFO|mode, 0))
		}
		o.say("stat", nil, harness.Describe(in("file-4755")), harness.Describe(in("dir-2755")), harness.Describe(in("root-file")))
		o.say("device", unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 300))))
		o.say("socket", unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0))
		o.say("node", unix.Mknod(in("node"), unix.S_IFREG|0o640, 0), harness.Describe(in("node")))

		// Names of the greatest length.
		o.open(in(long), unix.O_CREAT|unix.O_WRONLY, 0o644, "")
		o.open(in(long+"n"), unix.O_CREAT|unix.O_WRONLY, 0o644, "")
		o.open(in("missing/file"), unix.O_CREAT|unix.O_WRONLY, 0o644, "")
		o.open(in("file-666/below"), unix.O_CREAT|unix.O_WRONLY, 0o644, "")
		o.open(in(deep), unix.O_RDONLY, 0, "")
		o.open(in("odd\x01\xff\n name"), unix.O_CREAT|unix.O_WRONLY, 0o644, "odd")
		o.say("mkdir exists", unix.Mkdir(in("file-666"), 0o755))
		o.say("mkdir long", unix.Mkdir(in(long+"n"), 0o755))
		o.say("symlink", unix.Symlink("../root-file", in("symlink")))
		o.say("symlink long", unix.Symlink(strings.Repeat("t", 4000), in("symlink-long")), harness.Describe(in("symlink-long")))
		o.say("symlink too long", unix.Symlink(strings.Repeat("t", 4096), in("symlink-too-long")))
		o.say("symlink exists", unix.Symlink("x", in("file-666")))
		o.say("loop", unix.Symlink("loop", in("loop")))
		o.open(in("loop"), unix.O_RDONLY, 0, "")
		o.open(in("symlink"), unix.O_RDONLY|unix.O_NOFOLLOW, 0, "")

		// Opening.
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR | unix.O_TRUNC, unix.O_CREAT | unix.O_EXCL, unix.O_RDONLY | unix.O_DIRECTORY, unix.O_WRONLY | unix.O_APPEND, unix.O_RDONLY | unix.O_NOATIME, unix.O_PATH} {
			o.open(in("file-666"), flags, 0o644, "")
			o.open(in("root-file"), flags, 0o644, "")
			o.open(in("secret"), flags, 0o644, "")
			o.open(in("dir-777"), flags, 0o644, "")
		}
		o.open(in("file-777"), unix.O_WRONLY|unix.O_APPEND, 0, "more")
		o.open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o666, "temporary")
		o.tmpfile(dir)

		// Links.
		o.say("link", unix.Link(in("file-666"), in("link")), harness.Describe(in("file-666")))
		o.say("link exists", unix.Link(in("file-666"), in("file-777")))
		o.say("link directory", unix.Link(in("dir-777"), in("link-dir")))
		o.say("link of another's", unix.Link(in("root-file"), in("link-root")))
		o.say("link missing", unix.Link(in("missing"), in("link-missing")))
		o.say("link symlink", unix.Linkat(unix.AT_FDCWD, in("symlink"), unix.AT_FDCWD, in("link-symlink"), 0), harness.Describe(in("link-symlink")))
		o.say("link across", unix.Link(in("file-666"), "open/across-"+dir))

		// Owners and modes.
		for _, name := range []string{"file-666", "root-file", "dir-777", "symlink", "missing"} {
			o.say("chmod "+name, unix.Chmod(in(name), 0o6711), harness.Describe(in(name)))
			o.say("chown "+name, unix.Lchown(in(name), 1002, -1), harness.Describe(in(name)))
			o.say("chgrp "+name, unix.Lchown(in(name), -1, 1500), harness.Describe(in(name)))
			o.say("chown same "+name, unix.Lchown(in(name), -1, -1), harness.Describe(in(name)))
			o.say("truncate "+name, unix.Truncate(in(name), 3), harness.Describe(in(name)))
			o.say("extend "+name, unix.Truncate(in(name), 100_000), harness.Describe(in(name)))
			o.say("negative "+name, unix.Truncate(in(name), -1))
			times := []unix.Timespec{{Sec: 1_000_000_000, Nsec: 123_456_789}, {Sec: 1_100_000_000, Nsec: 987_654_321}}
			o.say("times "+name, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), times, unix.AT_SYMLINK_NOFOLLOW), harness.Describe(in(name)))
			times[0].Nsec = unix.UTIME_OMIT
			times[1] = unix.Timespec{Sec: -5, Nsec: 1}
			o.say("times before 1970 "+name, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), times, unix.AT_SYMLINK_NOFOLLOW), harness.Describe(in(name)))
			now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
			o.say("touch "+name, unix.UtimesNanoAt(unix.AT_FDCWD, in(name), now, unix.AT_SYMLINK_NOFOLLOW), harness.Describe(in(name)))
			o.say("access "+name, unix.Access(in(name), unix.W_OK), unix.Access(in(name), unix.X_OK), unix.Access(in(name), unix.R_OK))
		}

		// Extended attributes.
		for _, name := range []string{"file-777", "root-file", "dir-777", "symlink"} {
			for _, attribute := range []string{"user.a", "user." + strings.Repeat("x", 250), "user." + strings.Repeat("x", 251), "trusted.t", "security.s", "nosuch.n", "user."} {
				o.say(fmt.Sprintf("setxattr %s %.20s", name, attribute), unix.Lsetxattr(in(name), attribute, []byte("value"), 0), harness.Describe(in(name)))
			}
			o.say("create it again", unix.Lsetxattr(in(name), "user.a", []byte("v"), unix.XATTR_CREATE))
			o.say("replace what is not", unix.Lsetxattr(in(name), "user.none", []byte("v"), unix.XATTR_REPLACE))
			small := make([]byte, 2)
			_, err := unix.Lgetxattr(in(name), "user.a", small)
			o.say("small buffer", err)
			size, err := unix.Lgetxattr(in(name), "user.a", nil)
			o.say("size", err, size)
			_, err = unix.Lgetxattr(in(name), "user.none", small)
			o.say("none", err)
			o.say("remove", unix.Lremovexattr(in(name), "user.a"), harness.Describe(in(name)))
			o.say("remove again", unix.Lremovexattr(in(name), "user.a"))
			o.say("large", unix.Lsetxattr(in(name), "user.large", make([]byte, 70_000), 0))
		}
		acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
		o.say("acl", unix.Setxattr(in("file-600"), "system.posix_acl_access", acl, 0), harness.Describe(in("file-600")))
		o.say("bad acl", unix.Setxattr(in("file-600"), "system.posix_acl_access", []byte{1}, 0), harness.Describe(in("file-600")))

		// Holes and positions.
		o.holes(in("holes"))

		// Writing clears set-user-id and set-group-id.
		for i, flags := range []int{unix.O_WRONLY, unix.O_WRONLY | unix.O_APPEND, unix.O_WRONLY | unix.O_TRUNC, unix.O_RDWR} {
			name := in(fmt.Sprintf("privileged-%d", i))
			o.open(name, unix.O_CREAT|unix.O_WRONLY, 0o777, "content")
			o.say("privileged", unix.Chmod(name, 0o6777), harness.Describe(name))
			o.open(name, flags, 0, "changed")
			o.say("written", nil, harness.Describe(name))
			o.say("privileged", unix.Chmod(name, 0o6777), unix.Truncate(name, 2), harness.Describe(name))
		}

		// Removing.
		o.say("unlink directory", unix.Unlink(in("dir-777")))
		o.say("rmdir file", unix.Rmdir(in("file-777")))
		o.say("rmdir missing", unix.Rmdir(in("missing")))
		o.say("unlink another's", unix.Unlink(in("secret")))
		o.open(in("dir-777/inner"), unix.O_CREAT, 0o644, "")
		o.say("rmdir full", unix.Rmdir(in("dir-777")))
		o.say("rmdir dot", unix.Rmdir(in("dir-777/.")))
		o.say("rmdir dots", unix.Rmdir(in("dir-777/..")))
		o.unlinked(in("file-2755"))
		o.renames(in)
	}
}

// tmpfile gives a file without a name a name.
func (o *operator) tmpfile(dir string) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o640)
	if err != nil {
		o.say("tmpfile", err)
		return
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte("was nameless"))
	o.say("tmpfile", err)
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, dir+"/named", unix.AT_SYMLINK_FOLLOW)
	o.say("tmpfile linked", err, harness.Describe(dir+"/named"))
}

// holes makes and finds holes, and copies.
func (o *operator) holes(path string) {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC, 0o644)
	if err != nil {
		o.say("holes", err)
		return
	}
	defer unix.Close(fd)
	_, err = unix.Pwrite(fd, []byte("end"), 1<<20)
	o.say("sparse", err)
	for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
		for _, from := range []int64{0, 1 << 20, 1<<20 + 2, 1 << 21} {
			at, err := unix.Seek(fd, from, whence)
			o.say("seek", err, whence, from, at)
		}
	}
	for _, mode := range []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_PUNCH_HOLE} {
		o.say(fmt.Sprintf("fallocate %x", mode), unix.Fallocate(fd, mode, 4096, 8192), harness.Describe(path))
	}
	o.say("fallocate nothing", unix.Fallocate(fd, 0, 0, 0))
	other, err := unix.Open(path+"-copy", unix.O_CREAT|unix.O_RDWR|unix.O_TRUNC, 0o644)
	if err != nil {
		o.say("copy", err)
		return
	}
	defer unix.Close(other)
	from, to := int64(1<<20-1), int64(10)
	n, err := unix.CopyFileRange(fd, &from, other, &to, 100, 0)
	o.say("copy_file_range", err, n, from, to, harness.Describe(path+"-copy"))
	o.say("fsync", unix.Fsync(fd), unix.Fdatasync(fd))
	o.say("read-only write", func() error {
		reader, err := unix.Open(path, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(reader)
		_, err = unix.Write(reader, []byte("x"))
		return err
	}())
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	o.say("fcntl lock", unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock))
	o.say("flock", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.Flock(other, unix.LOCK_SH))
	again, err := unix.Open(path, unix.O_RDONLY, 0)
	if err == nil {
		o.say("flock again", unix.Flock(again, unix.LOCK_EX|unix.LOCK_NB))
		unix.Close(again)
	}
	page, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err == nil {
		copy(page, "mapped")
		err = errors.Join(unix.Msync(page, unix.MS_SYNC), unix.Munmap(page))
	}
	o.say("mmap", err, harness.Describe(path))
}

// unlinked uses a file that has been unlinked.
func (o *operator) unlinked(path string) {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		o.say("open to unlink", err)
		return
	}
	defer unix.Close(fd)
	o.say("unlink", unix.Unlink(path))
	_, err = unix.Pwrite(fd, []byte("still here"), 0)
	var st unix.Stat_t
	o.say("unlinked", errors.Join(err, unix.Fstat(fd, &st)), st.Nlink, st.Size, unix.Ftruncate(fd, 5), unix.Fchmod(fd, 0o600))
	o.say("fsetxattr", unix.Fsetxattr(fd, "user.gone", []byte("x"), 0))
}

// renames tries every kind of file onto every kind, with every flag.
func (o *operator) renames(in func(string) string) {
	make := map[string]func(string) error{
		"file": func(p string) error {
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_WRONLY, 0o644)
			unix.Close(fd)
			return err
		},
		"empty":   func(p string) error { return unix.Mkdir(p, 0o755) },
		"full":    func(p string) error { return errors.Join(unix.Mkdir(p, 0o755), unix.Mkdir(p+"/inner", 0o755)) },
		"link":    func(p string) error { return unix.Symlink("nowhere", p) },
		"fifo":    func(p string) error { return unix.Mknod(p, unix.S_IFIFO|0o644, 0) },
		"missing": func(string) error { return nil },
	}
	kinds := []string{"file", "empty", "full", "link", "fifo", "missing"}
	for _, flags := range []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_WHITEOUT, unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE} {
		for _, a := range kinds {
			for _, b := range kinds {
				from, to := in(fmt.Sprintf("from-%d-%s-%s", flags, a, b)), in(fmt.Sprintf("to-%d-%s-%s", flags, a, b))
				o.say("make", errors.Join(make[a](from), make[b](to)))
				err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags)
				o.say(fmt.Sprintf("rename %d %s over %s", flags, a, b), err, harness.Describe(from), harness.Describe(to))
			}
		}
	}
	o.say("make", make["full"](in("self")))
	o.say("rename into itself", unix.Rename(in("self"), in("self/inner/below")))
	o.say("rename over its parent", unix.Rename(in("self/inner"), in("self")))
	o.say("rename same", unix.Rename(in("self"), in("self")))
	o.say("rename another's", unix.Rename(in("root-file"), in("root-file-renamed")))
	o.say("rename long", unix.Rename(in("self"), in(strings.Repeat("n", 256))))
	o.say("rename across", unix.Rename(in("self"), "open/self-"+strings.ReplaceAll(in(""), "/", "")))
	o.say("link then rename over it", errors.Join(make["file"](in("one")), unix.Link(in("one"), in("two")), unix.Rename(in("one"), in("two"))), harness.Describe(in("one")), harness.Describe(in("two")))
}

func operations(kind string) {
	seed, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	o := &operator{rand.New(rand.NewPCG(seed, 0))}
	if kind == "table" {
		o.table()
	} else {
		o.randomly()
	}
}
