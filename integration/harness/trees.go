//go:build linux

package harness

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// CheckContent fails the test if a file does not contain exactly text.
func CheckContent(t *testing.T, path, text string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("%s: %q, %v; not %q", filepath.Base(path), got, err, text)
	}
}

// MakeTree makes directories in dir with all kinds of permissions, for tests that compare a mount with a plain
// directory.
func MakeTree(t *testing.T, dir string) {
	t.Helper()
	for _, d := range []struct {
		name string
		mode uint32
		uid  int
		gid  int
	}{
		{"open", 0o777, 0, 0}, {"sticky", 0o1777, 0, 0}, {"private", 0o700, 1001, 1001},
		{"group", 0o2770, 0, 1500}, {"readable", 0o755, 0, 0}, {"setgid", 0o2777, 0, 1500}, {"acl", 0o777, 0, 0},
	} {
		path := filepath.Join(dir, d.name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chown(path, d.uid, d.gid), unix.Chmod(path, d.mode),
			os.WriteFile(path+"/root-file", []byte("root's"), 0o644), os.WriteFile(path+"/secret", []byte("x"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	// The default ACL is user::rwx group::r-x other::r-x user:1002:rwx mask::rwx.
	acl := EncodeACL([][3]uint32{{1, 7, ^uint32(0)}, {2, 7, 1002}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 5, ^uint32(0)}})
	if err := unix.Setxattr(filepath.Join(dir, "acl"), "system.posix_acl_default", acl, 0); err != nil {
		t.Fatal(err)
	}
}

// EncodeACL returns the extended attribute for an ACL (acl(5), linux/posix_acl_xattr.h). An entry is a tag,
// permissions and an id.
func EncodeACL(entries [][3]uint32) []byte {
	acl := []byte{2, 0, 0, 0}
	for _, e := range entries {
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[0]))
		acl = binary.LittleEndian.AppendUint16(acl, uint16(e[1]))
		acl = binary.LittleEndian.AppendUint32(acl, e[2])
	}
	return acl
}

// CompareLines fails the test at the first line in which a mount differs from a plain directory. The seed, or the
// number of a stage, is for the message.
func CompareLines(t *testing.T, seed int, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			context := ""
			if i > 0 && i <= len(want) {
				context = "\nafter   " + strings.Join(want[max(0, i-4):i], "\n        ")
			}
			t.Fatalf("seed %d, result %d\nmount   %s\nbeneath %s%s", seed, i, g, w, context)
		}
	}
}

// DumpTree returns a line of Describe for dir and for everything in it.
func DumpTree(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		lines = append(lines, name+" "+Describe(path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// Describe returns what stat(2), the extended attributes and the content say of a file. Times are included only if
// they lie before 2017, because a test has set these.
func Describe(path string) string {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("mode %o owner %d:%d links %d rdev %x", st.Mode, st.Uid, st.Gid, st.Nlink, st.Rdev)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		text += fmt.Sprintf(" size %d", st.Size)
	}
	if st.Mtim.Sec < 1_500_000_000 {
		text += fmt.Sprintf(" mtime %d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	}
	if st.Atim.Sec < 1_500_000_000 {
		text += fmt.Sprintf(" atime %d.%09d", st.Atim.Sec, st.Atim.Nsec)
	}
	list := make([]byte, 4096)
	if n, err := unix.Llistxattr(path, list); err != nil {
		text += " xattrs " + unix.ErrnoName(err.(unix.Errno))
	} else if n > 0 {
		for _, name := range strings.Split(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
			value := make([]byte, 4096)
			n, err := unix.Lgetxattr(path, name, value)
			text += fmt.Sprintf(" %s=%x,%v", name, value[:max(n, 0)], err)
		}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		content, err := os.ReadFile(path)
		text += fmt.Sprintf(" content %x %v", sha256.Sum256(content), err != nil)
	case unix.S_IFLNK:
		target, _ := os.Readlink(path)
		text += " to " + target
	}
	return text
}

// MountTmpfs mounts a tmpfs until the end of the test.
func MountTmpfs(t *testing.T, flags uintptr, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("A MOUNT IS LEFT BEHIND at %s: %v", dir, err)
		}
	})
	return dir
}
