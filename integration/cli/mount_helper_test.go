//go:build linux

package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// inNamespace runs a script in a mount namespace of its own and returns the lines that it printed. LATCHFS is the
// built program, and mount -t fuse.latchfs works.
func inNamespace(t *testing.T, script string, env ...string) []string {
	t.Helper()
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "unshare")
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", `
		mount -t tmpfs tmpfs /mnt
		mkdir /mnt/upper /mnt/work
		mount -t overlay -o lowerdir=/usr/sbin,upperdir=/mnt/upper,workdir=/mnt/work overlay /usr/sbin
		ln -sf "$LATCHFS" /usr/sbin/mount.fuse.latchfs
		export MOUNT_OPTIONS="state_dir=$DIR/../state"
		`+script)
	cmd.Env = append(append(os.Environ(), "LATCHFS="+harness.Latchfs), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

// TestMountHelper checks mount(8), fstab(5) and umount(8): they work as for any filesystem, with options, and
// refuse wrong options.
func TestMountHelper(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := filepath.Join(base, "sessions")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	got := inNamespace(t, `
		say() { echo "$@"; }
		refused() { if out=$("$@" 2>&1); then say "not refused: $*"; else say "$out"; fi; }
		say "fake: $(mount -f -t fuse.latchfs "$DIR" "$DIR" 2>&1), $(findmnt "$DIR" || echo not mounted)"
		mount -t fuse.latchfs -o "$MOUNT_OPTIONS,noexec,stale-after=1h,lock_pattern=*.lck,x-test,nofail" "$DIR" "$DIR"
		findmnt -n -o FSTYPE,SOURCE "$DIR"
		case $(findmnt -n -o OPTIONS "$DIR") in *noexec*) say noexec ;; esac
		grep -o '"stale_after": 3600' "$DIR/.latchfs/status"
		grep -o '"\*.lck"' "$DIR/.latchfs/status"
		refused mount -o remount,stale_after=2h "$DIR"
		refused mount -t fuse.latchfs "$DIR" "$DIR"
		umount "$DIR"
		while pgrep -f "latchfs.*$DIR" >/dev/null; do sleep 0.01; done
		refused mount -t fuse.latchfs -o ro "$DIR" "$DIR"
		refused mount -t fuse.latchfs -o "$MOUNT_OPTIONS,stale_after" "$DIR" "$DIR"
		refused mount -t fuse.latchfs -o "$MOUNT_OPTIONS,colour=red" "$DIR" "$DIR"
		refused mount -t fuse.latchfs -o "$MOUNT_OPTIONS,lock_pattern=\"*.lock,opaqe\"" "$DIR" "$DIR"
		mount -t fuse.latchfs -o "$MOUNT_OPTIONS,lock_pattern=[" "$DIR" "$DIR" 2>/dev/null || say "status $?"
		refused mount -t fuse.latchfs /usr "$DIR"
		refused mount -t fuse.latchfs -o "$MOUNT_OPTIONS,stale_after=soon" "$DIR" "$DIR"
		refused mount -t fuse.latchfs "$DIR/none" "$DIR/none"
		say "$DIR $DIR fuse.latchfs $MOUNT_OPTIONS,stale_after=2h 0 0" >/mnt/fstab
		mount -a --fstab /mnt/fstab
		mount -a --fstab /mnt/fstab
		grep -o '"stale_after": 7200' "$DIR/.latchfs/status"
		(set -C; echo $$ >"$DIR/x.lock"; exec sleep 1000) &
		while ! [ -e "$DIR/x.lock" ]; do sleep 0.01; done
		"$LATCHFS" ls "$DIR" | awk 'NR == 2 { print $1, $3, $5 }'
		cd "$DIR"
		refused umount "$DIR"
		cd /
		kill $!
		umount -l "$DIR"
		while pgrep -f "latchfs.*$DIR" >/dev/null; do sleep 0.01; done
		say done
	`, "DIR="+dir)
	want := []string{
		"fake: , not mounted", "fuse.latchfs " + dir, "noexec", `"stale_after": 3600`, `"*.lck"`,
		"latchfs: the options of a latchfs mount cannot change while it is mounted: unmount it and mount it again",
		"latchfs: " + dir + " is mounted already",
		"latchfs: latchfs has no read-only mode, because a lock is a new file; mount the backing filesystem read-only instead",
		"latchfs: option stale_after needs a value (stale_after=VALUE)",
		"latchfs: unknown option colour=red; see latchfs mount --help for the options",
		`latchfs: lock pattern "*.lock,opaqe": unknown attribute "opaqe"; allowed are opaque, keep and close`, "status 1",
		"latchfs: latchfs serves the directory that it is mounted over: give " + dir + " as the source too, not /usr",
		`latchfs: invalid argument "soon" for "--stale-after" flag`,
		"latchfs: stat " + dir + "/none: no such file or directory",
		`"stale_after": 7200`, "x.lock sh live",
		"umount: " + dir + ": target is busy.",
		"done",
	}
	at := 0
	for _, line := range got {
		if at < len(want) && strings.HasPrefix(line, want[at]) {
			at++
		}
	}
	if at < len(want) {
		t.Errorf("no line %q in its place in\n%s", want[at], strings.Join(got, "\n"))
	}
}

// TestPatternAttributes checks that close frees a lock at its close, and that an exception excludes names, in all
// ways of mounting.
func TestPatternAttributes(t *testing.T) {
	t.Parallel()
	script := `
		soon() { for _ in $(seq 500); do if "$@"; then return; fi; sleep 0.01; done; echo "it is not so: $*"; exit 1; }
		cd "$DIR"
		sh -c 'set -C; exec 3>a.session.lock 4>b.lock 5>c.data.lock; echo $$ >&3; echo $$ >&4; echo $$ >&5; exec 3>&- 4>&- 5>&-; : >ready; exec sleep 1000' &
		trap "kill -9 $! 2>/dev/null || true" EXIT
		soon test -e ready
		soon test ! -e a.session.lock
		locks=$("$LATCHFS" ls . | awk 'NR > 1 { print $1, $5 }')
		kill -9 $!
		soon test ! -e b.lock
		echo "$locks, $(ls)"`
	const want = "b.lock live, c.data.lock\nready"
	t.Run("flags", func(t *testing.T) {
		m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "!*.data.lock", "--lock-pattern", "*.lock", "--lock-pattern", "*.session.lock,opaque,close")
		cmd := exec.Command("sh", "-eu", "-c", script)
		cmd.Env = append(os.Environ(), "LATCHFS="+harness.Latchfs, "DIR="+m.Dir)
		if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%v: %s", err, out)
		}
	})
	t.Run("mount(8)", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "sessions")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		got := inNamespace(t, `
			mount -t fuse.latchfs -o "$MOUNT_OPTIONS,lock_pattern=!*.data.lock,lock_pattern=*.lock,lock_pattern=\"*.session.lock,opaque,close\"" "$DIR" "$DIR"
			failed=
			(`+script+`) || failed=yes
			umount -l "$DIR"
			while pgrep -f "latchfs.*$DIR" >/dev/null; do sleep 0.01; done
			test -z "$failed"`, "DIR="+dir)
		if said := strings.Join(got, "\n"); !strings.HasSuffix(said, want) {
			t.Errorf("%s", said)
		}
	})
}

// TestMountOfAUser checks that a user other than root mounts through fusermount3 and unmounts with fusermount3 -u.
func TestMountOfAUser(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "fusermount3")
	harness.NeedProgram(t, "setpriv")
	dir, state := harness.SharedDir(t), harness.SharedDir(t)
	for _, path := range []string{dir, state} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	as := []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}
	run := func(words ...string) string {
		t.Helper()
		words = append(slices.Clone(as), words...)
		out, err := exec.Command(words[0], words[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", words, err, out)
		}
		return string(out)
	}
	run(harness.Latchfs, "mount", "--daemon", "--noexec", "--state-dir", filepath.Join(state, "state"), dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(mounts) != 1 || !strings.Contains(mounts[0].Options, "noexec") {
		t.Fatalf("%v %v", mounts, err)
	}
	pid := statusNumberAs(t, as, dir)
	run("fusermount3", "-u", dir)
	harness.Eventually(t, "its daemon has ended", func() bool { return harness.HasEnded(pid) })
}

// statusNumberAs returns the pid of the keeper of a mount, as another user sees it.
func statusNumberAs(t *testing.T, as []string, dir string) (pid int) {
	t.Helper()
	words := append(slices.Clone(as), "grep", `"pid"`, dir+"/.latchfs/status")
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err == nil {
		_, err = fmt.Sscanf(strings.TrimSpace(string(out)), `"pid": %d,`, &pid)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return pid
}
