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

// asUser is the prefix of a command that another user runs.
func AsUser(t *testing.T, uid int) []string {
	t.Helper()
	NeedProgram(t, "setpriv")
	id := strconv.Itoa(uid)
	return []string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--bounding-set=-all"}
}

// sharedDir is a directory in which everybody may make files, as in /tmp.
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

const (
	AttackerUID  = 1002
	BystanderUID = 1003
)

// as calls do on a thread that is another user to filesystems.
func WithUID(uid int, do func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.SetfsuidRetUid(uid)
	defer unix.SetfsuidRetUid(0)
	do()
}

// openAs opens a file as another user.
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

// testDir is a temporary directory that every user can reach.
func OpenDir(t *testing.T) string {
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
