//go:build linux

package cli

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestBadUse checks that every mistake is answered with one line and its exit code.
func TestBadUse(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	dir, state := harness.PublicDir(t), filepath.Join(t.TempDir(), "state")
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
	m := harness.MountOver(t, harness.PublicDir(t))
	if err := os.Mkdir(m.Path("inner"), 0o777); err != nil {
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
		{"mounted already", nil, []string{"mount", "--state-dir", state, m.Dir}, 4, "mounted already"},
		{"inside a mount", nil, []string{"mount", "--state-dir", state, m.Path("inner")}, 4, "inside the latchfs mount"},
		{"umount of no mount", nil, []string{"umount", dir}, 4, "not a latchfs mount"},
		{"ls of no mount", nil, []string{"ls", dir}, 4, "not a latchfs mount"},
		{"odd name", nil, []string{"release", m.Path("a\x1b[2J\u202e.lock")}, 1, `/a\x1b[2J\u202e.lock: there is no lock`},
		{"no permission", stranger, []string{"mount", "--state-dir", "/tmp/latchfs-none", dir + "/private"}, 5, "permission denied"},
		{"umount of another's mount", stranger, []string{"umount", m.Dir}, 5, "another user has mounted it"},
		{"state inside", nil, []string{"mount", "--state-dir", dir + "/sub/state", dir}, 7, "inside"},
		{"state inside by a link", nil, []string{"mount", "--state-dir", dir + "/link/state", dir + "/sub"}, 7, "inside"},
		{"state with a link in it", nil, []string{"mount", "--state-dir", states + "/linked", dir}, 7, "journal is a symbolic link"},
		{"state is a link", nil, []string{"mount", "--state-dir", states + "/link", dir}, 7, "is a symbolic link"},
		{"state of another user", nil, []string{"mount", "--state-dir", states + "/other", dir}, 7, "belongs to user 1002"},
		{"state others may write", nil, []string{"mount", "--state-dir", states + "/open", dir}, 7, "writable by others"},
		{"state in use", nil, []string{"mount", "--state-dir", m.StateDir, dir}, 7, "in use by process"},
		{"state unwritable", stranger, []string{"mount", "--state-dir", dir + "/private/state", dir + "/sub"}, 7, "permission denied"},
		{"state is a file", nil, []string{"mount", "--state-dir", file + "/state", dir}, 7, "state directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, said := harness.RunLatchfs(t, c.credential, c.args...)
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
	if harness.Exists("/tmp/latchfs-none") {
		_ = os.RemoveAll("/tmp/latchfs-none")
	}
}

// TestNoFUSE checks that latchfs prints one clear line if there is no /dev/fuse.
func TestNoFUSE(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs none /dev && exec "$0" mount --state-dir "$1" "$2"`, harness.Latchfs, filepath.Join(t.TempDir(), "state"), t.TempDir())
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 6 || !strings.Contains(string(out), "no FUSE here") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestDaemon checks that --daemon returns when the mount is usable, or with the error and its exit code.
func TestDaemon(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	if code, said := harness.RunLatchfs(t, nil, "mount", "--daemon", "--state-dir", state, dir); code != 0 || !strings.Contains(said, "mounted") {
		t.Fatalf("exit code %d: %s", code, said)
	}
	if code, said := harness.RunLatchfs(t, nil, "mount", "--daemon", "--state-dir", state+"2", dir); code != 4 || !strings.Contains(said, "mounted already") {
		t.Errorf("exit code %d: %s", code, said)
	}
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", filepath.Join(dir, "x.lock"))
	other.Must("EBUSY", "remove", filepath.Join(dir, "x.lock"))
	if log, err := os.ReadFile(filepath.Join(state, "log")); err != nil || !strings.Contains(string(log), "refused") {
		t.Errorf("%v: %s", err, log)
	}
	busy, err := os.Open(filepath.Join(dir, "x.lock"))
	if err != nil {
		t.Fatal(err)
	}
	if code, said := harness.RunLatchfs(t, nil, "umount", dir); code != 9 || !strings.Contains(said, fmt.Sprintf("by %d (", os.Getpid())) {
		t.Errorf("exit code %d: %s", code, said)
	}
	busy.Close()
	if code, said := harness.RunLatchfs(t, nil, "umount", dir); code != 0 {
		t.Errorf("exit code %d: %s", code, said)
	}
	// The backing directory has the lock file, as without latchfs.
	if text, err := os.ReadFile(filepath.Join(dir, "x.lock")); err != nil || string(text) != fmt.Sprintln(holder.PID()) {
		t.Errorf("%q %v", text, err)
	}
}

// TestSignalUnmounts checks that SIGTERM unmounts. A busy mount is unmounted lazily, and the process that uses it
// is logged.
func TestSignalUnmounts(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	if err := os.WriteFile(m.Path("file"), []byte("still read"), 0o644); err != nil {
		t.Fatal(err)
	}
	busy, err := os.Open(m.Path("file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Keeper.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the process that uses the mount is logged", func() bool { return len(m.Logged("keeps the mount busy")) > 0 })
	if pid := m.Logged("keeps the mount busy")[0]["pid"]; fmt.Sprint(pid) != fmt.Sprint(os.Getpid()) {
		t.Errorf("named %v", pid)
	}
	text := make([]byte, 100)
	if n, err := busy.Read(text); err != nil || string(text[:n]) != "still read" {
		t.Errorf("%q %v", text[:n], err)
	}
	busy.Close()
	<-m.Ended
	if code := m.Keeper.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d: %s", code, m.Log())
	}
}

// TestOrdinaryUser mounts, locks, contends and unmounts without root.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "fusermount3")
	if info, err := os.Stat("/dev/fuse"); err != nil || info.Mode().Perm()&0o006 != 0o006 {
		harness.FailOrSkip(t, "/dev/fuse is not open to all users, as udev has it; run make deps")
	}
	home := harness.PublicDir(t)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534} // fusermount3 needs a user with a name
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
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LATCHFS=" + harness.Latchfs}
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
