//go:build linux

package harness

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// AsUser returns the words before a command that run it as another user, without capabilities.
func AsUser(t *testing.T, uid int) []string {
	t.Helper()
	NeedProgram(t, "setpriv")
	id := strconv.Itoa(uid)
	return []string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--bounding-set=-all"}
}

// SharedDir returns a temporary directory of the test in which every user may create files, without the sticky bit.
func SharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path := dir; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// The users of tests with several users.
const (
	AttackerUID  = 1002
	BystanderUID = 1003
)

// WithUID calls do on a thread that acts as another user on filesystems.
func WithUID(uid int, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.SetfsuidRetUid(uid)
	defer unix.SetfsuidRetUid(0)
	do()
}

// OpenAs opens a file as another user until the end of the test.
func OpenAs(t *testing.T, uid int, path string, flags int) (fd int) {
	t.Helper()
	var err error
	WithUID(uid, func() { fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0) })
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// PublicDir returns a temporary directory in which every user may create files. Unlike SharedDir it is directly in
// the system's directory for temporary files.
func PublicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "latchfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}
