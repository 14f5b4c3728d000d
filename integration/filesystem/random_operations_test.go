//go:build linux

package filesystem

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// randomOperations is the number of operations for each seed.
const randomOperations = 1500

// randomly makes random operations on a few names, so that they affect each other.
func (o *operator) randomly() {
	unix.Umask(0)
	pick := func(from ...string) string { return from[o.random.IntN(len(from))] }
	path := func() string {
		p := pick("open", "sticky", "group", "setgid", "acl", "private")
		for range o.random.IntN(3) {
			p += "/" + pick("a", "b", "c")
		}
		return p + "/" + pick("a", "b", "c", "x.lock", "y.lock")
	}
	var open [4]int // descriptors that stay open, and the paths of their files
	var opened [4]string
	for i := range open {
		open[i] = -1
	}
	buffer := make([]byte, 64<<10)
	for range randomOperations {
		p, q := path(), path()
		i := o.random.IntN(len(open))
		fd, what := open[i], "of "+opened[i]
		offset, size := int64(o.random.IntN(100_000)), o.random.IntN(20_000)
		mode := uint32(o.random.IntN(0o10000))
		if mode&0o2010 == 0o2000 {
			// If a user outside of the group writes to such a file, Linux clears set-gid, except on
			// FUSE (fuse_setattr). The documents for users mention it.
			mode &^= 0o2000
		}
		switch o.random.IntN(30) {
		case 0, 1:
			o.open(p, unix.O_CREAT|unix.O_RDWR, mode, "text")
		case 2:
			o.open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, mode, "some data, not a pid")
		case 3:
			o.open(p, unix.O_RDWR|unix.O_TRUNC, 0, "shorter")
		case 4:
			o.open(p, unix.O_WRONLY|unix.O_APPEND, 0, "appended")
		case 5, 6:
			o.say("mkdir "+p, unix.Mkdir(p, mode))
		case 7:
			o.say("unlink "+p, unix.Unlink(p))
		case 8:
			o.say("rmdir "+p, unix.Rmdir(p))
		case 9, 10:
			flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[o.random.IntN(4)]
			o.say(fmt.Sprintf("rename %s %s %d", p, q, flags), unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, q, flags))
		case 11:
			o.say(fmt.Sprintf("link %s %s", p, q), unix.Linkat(unix.AT_FDCWD, p, unix.AT_FDCWD, q, 0))
		case 12:
			o.say(fmt.Sprintf("symlink %s %s", p, q), unix.Symlink(pick("a", "../b", "nowhere/at/all", "x.lock"), q))
		case 13:
			if slices.Max(open[:]) >= 0 {
				// A file that gets set-user-id while it is open for writing with passthrough keeps the
				// bit when it is written. The documents for users mention it.
				mode &^= 0o6000
			}
			o.say(fmt.Sprintf("chmod %s %o", p, mode), unix.Chmod(p, mode))
		case 14:
			o.say("truncate "+p, unix.Truncate(p, int64(o.random.IntN(10_000))))
		case 15:
			entries, err := os.ReadDir(filepath.Dir(p))
			var names []string
			for _, entry := range entries {
				names = append(names, entry.Name()+entry.Type().String())
			}
			fmt.Println("list", filepath.Dir(p), err != nil, names)
		case 16, 17:
			unix.Close(fd)
			var err error
			flags := []int{unix.O_RDWR, unix.O_RDONLY, unix.O_RDWR | unix.O_CREAT, unix.O_WRONLY | unix.O_APPEND}[o.random.IntN(4)]
			open[i], err = unix.Open(p, flags, mode)
			opened[i] = p
			o.say(fmt.Sprintf("keep %s open %x %o", p, flags, mode), err)
		case 18, 19:
			for at := range buffer[:size] {
				buffer[at] = byte('a' + (at+int(offset))%26)
			}
			n, err := unix.Pwrite(fd, buffer[:size], offset)
			o.say(fmt.Sprintf("pwrite %s %d %d", what, offset, size), err, n)
		case 20:
			n, err := unix.Pread(fd, buffer[:size], offset)
			o.say(fmt.Sprintf("pread %s %d %d", what, offset, size), err, n, fmt.Sprintf("%x", sha256.Sum256(buffer[:max(n, 0)])))
		case 21:
			var st unix.Stat_t
			err := errors.Join(unix.Ftruncate(fd, offset), unix.Fstat(fd, &st))
			o.say(fmt.Sprintf("ftruncate %s %d", what, offset), err, st.Size, st.Nlink, fmt.Sprintf("%o", st.Mode))
		case 22:
			flags := []uint32{0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE}[o.random.IntN(4)]
			o.say(fmt.Sprintf("fallocate %s %d %d %d", what, flags, offset, size+1), unix.Fallocate(fd, flags, offset, int64(size+1)))
		case 23:
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				break // positions in a directory differ between filesystems
			}
			to, err := unix.Seek(fd, offset, []int{unix.SEEK_DATA, unix.SEEK_HOLE, unix.SEEK_END}[o.random.IntN(3)])
			o.say(fmt.Sprintf("seek %s %d", what, offset), err, to)
		case 24:
			name := pick("user.a", "user.b", "trusted.a", "bad")
			o.say(fmt.Sprintf("setxattr %s %s", p, name), unix.Setxattr(p, name, buffer[:size%300], o.random.IntN(3)))
		case 25:
			name := pick("user.a", "user.b", "trusted.a", "bad")
			n, err := unix.Getxattr(p, name, buffer[:size%500])
			o.say(fmt.Sprintf("getxattr %s %s", p, name), err, n)
		case 26:
			n, err := unix.Listxattr(p, buffer)
			o.say("listxattr "+p, errors.Join(err, unix.Removexattr(p, pick("user.a", "user.b"))), n)
		case 27:
			o.say(fmt.Sprintf("mknod %s %o", p, mode), unix.Mknod(p, mode&0o777|unix.S_IFSOCK, 0))
		case 28:
			// A chown(2) that changes nothing clears set-user-id in the plain directory. On FUSE it sends no request.
			id := []int{0, 1001, 1002, 1500}[o.random.IntN(4)]
			o.say(fmt.Sprintf("chown %s %d", p, id), unix.Lchown(p, -1, id))
		case 29:
			var other = open[o.random.IntN(len(open))]
			n, err := unix.CopyFileRange(fd, nil, other, nil, size, 0)
			o.say(fmt.Sprintf("copy_file_range %s %d", what, size), err, n)
		}
		o.say("look "+p, nil, harness.Describe(p))
	}
}
