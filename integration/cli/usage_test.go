//go:build linux

package integration

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// run runs latchfs and returns its exit code and what it said on standard error.
func run(t *testing.T, credential *syscall.Credential, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(latchfs, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// TestBadUse: every mistake is answered with one line and its exit code.
func TestBadUse(t *testing.T) {
	needFUSE(t)
	dir, state := testDir(t), filepath.Join(t.TempDir(), "state")
	file := filepath.Join(dir, "file")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o644), os.Mkdir(dir+"/sub", 0o777), os.Symlink("sub", dir+"/link"), os.Mkdir(dir+"/private", 0o700)); err != nil {
		t.Fatal(err)
	}
	states, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("x"), 0o600), os.Mkdir(states+"/linked", 0o700), os.Symlink(victim, states+"/linked/journal"),
		os.Symlink("linked", states+"/link"), os.Mkdir(states+"/other", 0o700), os.Chown(states+"/other", 1002, 1002),
		os.Mkdir(states+"/open", 0o700), os.Chmod(states+"/open", 0o770)); err != nil {
		t.Fatal(err)
	}
	m := mountOver(t, testDir(t))
	if err := os.Mkdir(m.path("inner"), 0o777); err != nil {
		t.Fatal(err)
	}
	stranger := &syscall.Credential{Uid: 1002, Gid: 1002}
	for _, c := range []struct {
		name       string
		credential *syscall.Credential
		args       []string
		code       int
		says       string
	}{
		{"no command", nil, []string{"nonsense"}, 2, "unknown command"},
		{"unknown flag", nil, []string{"mount", "--nonsense", dir}, 2, "unknown flag"},
		{"no DIR", nil, []string{"mount"}, 2, "accepts 1 arg"},
		{"two DIRs", nil, []string{"mount", dir, dir}, 2, "accepts 1 arg"},
		{"bad level", nil, []string{"mount", "--state-dir", state, "--log-level", "loud", dir}, 2, "loud"},
		{"bad format", nil, []string{"mount", "--state-dir", state, "--log-format", "xml", dir}, 2, "xml"},
		{"bad duration", nil, []string{"mount", "--stale-after", "soon", dir}, 2, "soon"},
		{"negative duration", nil, []string{"mount", "--stale-after", "-1s", dir}, 2, "negative"},
		{"bad pattern", nil, []string{"mount", "--state-dir", state, "--lock-pattern", "[", dir}, 2, "pattern"},
		{"bad attribute", nil, []string{"mount", "--daemon", "--state-dir", state, "--lock-pattern", "*.lock,opaqe", dir}, 2, `lock pattern "*.lock,opaqe": unknown attribute "opaqe"; allowed are opaque, keep and close`},
		{"bad exception", nil, []string{"scan", "--lock-pattern", "!*.lock,keep", dir}, 2, `lock pattern "!*.lock,keep": !PATTERN takes no attributes`},
		{"missing", nil, []string{"mount", dir + "/missing"}, 3, "no such directory"},
		{"missing parent", nil, []string{"mount", dir + "/missing/sub"}, 3, "no such directory"},
		{"not a directory", nil, []string{"mount", file}, 3, "not a directory"},
		{"beneath a file", nil, []string{"mount", file + "/sub"}, 3, "no such directory"},
		{"mounted already", nil, []string{"mount", "--state-dir", state, m.dir}, 4, "mounted already"},
		{"inside a mount", nil, []string{"mount", "--state-dir", state, m.path("inner")}, 4, "inside the latchfs mount"},
		{"umount of no mount", nil, []string{"umount", dir}, 4, "not a latchfs mount"},
		{"ls of no mount", nil, []string{"ls", dir}, 4, "not a latchfs mount"},
		{"odd name", nil, []string{"release", m.path("a\x1b[2J\u202e.lock")}, 1, `/a\x1b[2J\u202e.lock: there is no lock`},
		{"no permission", stranger, []string{"mount", "--state-dir", "/tmp/latchfs-none", dir + "/private"}, 5, "permission denied"},
		{"umount of another's mount", stranger, []string{"umount", m.dir}, 5, "another user has mounted it"},
		{"state inside", nil, []string{"mount", "--state-dir", dir + "/sub/state", dir}, 7, "inside"},
		{"state inside by a link", nil, []string{"mount", "--state-dir", dir + "/link/state", dir + "/sub"}, 7, "inside"},
		{"state with a link in it", nil, []string{"mount", "--state-dir", states + "/linked", dir}, 7, "journal is a symbolic link"},
		{"state is a link", nil, []string{"mount", "--state-dir", states + "/link", dir}, 7, "is a symbolic link"},
		{"state of another user", nil, []string{"mount", "--state-dir", states + "/other", dir}, 7, "belongs to user 1002"},
		{"state others may write", nil, []string{"mount", "--state-dir", states + "/open", dir}, 7, "writable by others"},
		{"state in use", nil, []string{"mount", "--state-dir", m.stateDir, dir}, 7, "in use by process"},
		{"state unwritable", stranger, []string{"mount", "--state-dir", dir + "/private/state", dir + "/sub"}, 7, "permission denied"},
		{"state is a file", nil, []string{"mount", "--state-dir", file + "/state", dir}, 7, "state directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := run(t, c.credential, c.args...)
			if code != c.code || !strings.Contains(said, c.says) || strings.Count(strings.TrimSpace(said), "\n") > 0 {
				t.Errorf("exit code %d, not %d; said %q, which should say %q on one line", code, c.code, said, c.says)
			}
		})
	}
	for _, untouched := range []string{file, victim} {
		if text, err := os.ReadFile(untouched); err != nil || string(text) != "x" {
			t.Errorf("%s: %q %v", untouched, text, err)
		}
	}
	if exists("/tmp/latchfs-none") {
		_ = os.RemoveAll("/tmp/latchfs-none")
	}
}

// TestNoFUSE: without the device there is one clear line.
func TestNoFUSE(t *testing.T) {
	needFUSE(t)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs none /dev && exec "$0" mount --state-dir "$1" "$2"`, latchfs, filepath.Join(t.TempDir(), "state"), t.TempDir())
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 6 || !strings.Contains(string(out), "no FUSE here") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestDaemon: --daemon returns when the mount is usable, or with the error and its code.
func TestDaemon(t *testing.T) {
	needFUSE(t)
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	if code, said := run(t, nil, "mount", "--daemon", "--state-dir", state, dir); code != 0 || !strings.Contains(said, "mounted") {
		t.Fatalf("exit code %d: %s", code, said)
	}
	if code, said := run(t, nil, "mount", "--daemon", "--state-dir", state+"2", dir); code != 4 || !strings.Contains(said, "mounted already") {
		t.Errorf("exit code %d: %s", code, said)
	}
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", filepath.Join(dir, "x.lock"))
	other.must("EBUSY", "remove", filepath.Join(dir, "x.lock"))
	if log, err := os.ReadFile(filepath.Join(state, "log")); err != nil || !strings.Contains(string(log), "refused") {
		t.Errorf("%v: %s", err, log)
	}
	busy, err := os.Open(filepath.Join(dir, "x.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if code, said := run(t, nil, "umount", dir); code != 9 || !strings.Contains(said, fmt.Sprintf("by %d (", os.Getpid())) {
		t.Errorf("exit code %d: %s", code, said)
	}
	busy.Close()
	if code, said := run(t, nil, "umount", dir); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	// Beneath lies the lock file, as it would without latchfs.
	if text, err := os.ReadFile(filepath.Join(dir, "x.lock")); err != nil || string(text) != fmt.Sprintln(holder.pid()) {
		t.Errorf("%q %v", text, err)
	}
}

// TestSignalUnmounts: SIGTERM ends the mount; a busy one lazily, naming who keeps it so.
func TestSignalUnmounts(t *testing.T) {
	m := mountOver(t, t.TempDir())
	if err := os.WriteFile(m.path("file"), []byte("still read"), 0o644); err != nil {
		t.Fatal(err)
	}
	busy, err := os.Open(m.path("file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.process.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "who is busy is named", func() bool { return len(m.logged("keeps the mount busy")) > 0 })
	if pid := m.logged("keeps the mount busy")[0]["pid"]; fmt.Sprint(pid) != fmt.Sprint(os.Getpid()) {
		t.Errorf("named %v", pid)
	}
	text := make([]byte, 100)
	if n, err := busy.Read(text); err != nil || string(text[:n]) != "still read" {
		t.Errorf("%q %v", text[:n], err)
	}
	busy.Close()
	<-m.ended
	if code := m.process.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, m.allLog())
	}
}

// mountTmpfs mounts one until the end of the test.
func mountTmpfs(t *testing.T, flags uintptr, options string) (dir string) {
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

// TestFullDisk: an acquisition fails with ENOSPC, the locks there are stay and can be
// released, and mounting again works.
func TestFullDisk(t *testing.T) {
	needFUSE(t)
	disk := mountTmpfs(t, 0, "size=512k")
	m := mountOver(t, t.TempDir())
	m.unmount()
	m.stateDir = filepath.Join(disk, "state")
	m.start()
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("first.lock"))
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := filler.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	filler.Close()
	held := 0
	for ; ; held++ {
		answer := other.do("take", m.path(fmt.Sprintf("%d.lock", held)))
		if answer == "ENOSPC" {
			break
		}
		if answer != "ok" || held > 10_000 {
			t.Fatalf("lock %d: %s", held, answer)
		}
	}
	if exists(m.path(fmt.Sprintf("%d.lock", held))) {
		t.Error("the lock that could not be taken has a file")
	}
	if got := len(m.locks()); got != held+1 {
		t.Errorf("%d locks are held, not %d", got, held+1)
	}
	m.kill()
	m.start()
	if got := len(m.locks()); got != held+1 {
		t.Errorf("%d locks are held after a restart, not %d", got, held+1)
	}
	for i := range held {
		other.must("ok", "remove", m.path(fmt.Sprintf("%d.lock", i)))
	}
	holder.must("ok", "remove", m.path("first.lock"))
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	holder.must("ok", "take", m.path("first.lock"))
	m.unmount() // before the disk goes
}

// TestCorruptJournal: what is whole is recovered, the rest is kept aside, and the mount works.
func TestCorruptJournal(t *testing.T) {
	m := mountOver(t, t.TempDir())
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("whole.lock"))
	m.kill()
	journal, err := os.OpenFile(filepath.Join(m.stateDir, "journal"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.WriteString("this is no frame, but it is kept"); err != nil {
		t.Fatal(err)
	}
	journal.Close()
	m.start()
	other.must("EBUSY", "remove", m.path("whole.lock"))
	aside, err := filepath.Glob(filepath.Join(m.stateDir, "journal.cut-*"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("%v %v", aside, err)
	}
	if text, err := os.ReadFile(aside[0]); err != nil || string(text) != "this is no frame, but it is kept" {
		t.Errorf("%q %v", text, err)
	}
	if len(m.logged("torn or corrupt tail")) != 1 {
		t.Error("it is not logged")
	}
}

// TestNewerJournal is refused, and left as it is.
func TestNewerJournal(t *testing.T) {
	needFUSE(t)
	dir, state := t.TempDir(), t.TempDir()
	header := binary.LittleEndian.AppendUint32([]byte("latchfs\x00"), 1000)
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli)))
	path := filepath.Join(state, "journal")
	if err := os.WriteFile(path, header, 0o600); err != nil {
		t.Fatal(err)
	}
	code, said := run(t, nil, "mount", "--state-dir", state, dir)
	if code != 8 || !strings.Contains(said, "newer format") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, header) {
		t.Errorf("%q %v", text, err)
	}
}

// TestOrdinaryUser mounts, locks, contends and unmounts without root.
func TestOrdinaryUser(t *testing.T) {
	needFUSE(t)
	needProgram(t, "fusermount3")
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		lacking(t, "/dev/fuse is not open to all users, as udev has it; run make deps")
	}
	home := testDir(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534} // fusermount3 wants a user with a name
	script := `set -eu
		cd "$HOME"; mkdir sessions; echo data > sessions/file
		"$LATCHFS" mount --daemon sessions
		grep -q " $HOME/sessions fuse.latchfs" /proc/self/mountinfo || grep -q fuse.latchfs /proc/self/mountinfo
		test "$(cat sessions/file)" = data
		setsid sh -c 'set -C; echo $$ > sessions/x.lock; exec sleep 1000' & holder=$!
		until test -s sessions/x.lock; do sleep 0.01; done
		! sh -c 'set -C; echo $$ > sessions/x.lock' 2>/dev/null
		! perl -e 'unlink "sessions/x.lock" or die' 2>/dev/null || { echo "removed"; exit 1; }
		"$LATCHFS" ls sessions | grep -q "x.lock .* $holder .* live"
		kill -9 $holder; wait $holder || true
		sh -c 'set -C; echo $$ > sessions/x.lock'
		echo new > sessions/new; test "$(stat -c %u sessions/new)" = "$(id -u)"
		# A killed latchfs is replaced.
		pid=$(sed -n 's/.*"pid": \([0-9]*\),/\1/p' sessions/.latchfs/status)
		kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.01; done
		"$LATCHFS" mount --daemon sessions
		test "$(cat sessions/file)" = data
		"$LATCHFS" umount sessions
		! grep " $HOME/sessions " /proc/self/mountinfo`
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LATCHFS=" + latchfs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody}
	out, err := cmd.CombinedOutput()
	if err != nil {
		_ = unix.Unmount(filepath.Join(home, "sessions"), unix.MNT_DETACH)
		log, _ := filepath.Glob(filepath.Join(home, ".local/state/latchfs/*/log"))
		for _, l := range log {
			text, _ := os.ReadFile(l)
			t.Logf("%s", text)
		}
		t.Errorf("%v: %s", err, out)
	}
}
