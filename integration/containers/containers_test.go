//go:build linux

package containers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// holdAs1 takes a lock as pid 1 and writes the same payload as in every other container.
const holdAs1 = `test $$ = 1; take() { (set -C; echo '{"pid":1,"hostname":"box"}' > x.lock) 2>/dev/null; }
	if take; then echo taken; else echo busy; fi; while :; do sleep 1; done`

// TestContainersExcludeEachOther runs containers with the same host name, the same pids and identical payloads.
func TestContainersExcludeEachOther(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for range 3 {
		first, said := m.StartContainer(holdAs1)
		if said != "taken" {
			t.Fatal(said)
		}
		second, said := m.StartContainer(holdAs1)
		if said != "busy" {
			t.Fatal("both have it")
		}
		third, said := m.StartContainer(`rm -f x.lock 2>/dev/null; test -e x.lock && echo there; while :; do sleep 1; done`)
		if said != "there" {
			t.Error("another container removed it")
		}
		m.MustFail("Device or resource busy", "rm x.lock")
		if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID == 1 {
			t.Errorf("%+v", l)
		}
		first.Kill() // the other containers have a pid 1 too
		next, said := m.StartContainer(holdAs1)
		if said != "taken" {
			t.Error("the lock of a dead container is not free")
		}
		for _, c := range []*harness.Container{second, third, next} {
			c.Kill()
		}
	}
}

// TestContainerRestart checks that locks that a former container left are free in the next one, in which another
// process has the pid.
func TestContainerRestart(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	// This runs a script as pid 7 of its container, by setting the kernel's counter of pids.
	as7 := `echo 6 > /proc/sys/kernel/ns_last_pid; bash -c 'test $$ = 7 || exit 1; `
	first, said := m.StartContainer(as7 + `mkdir l.lock; echo "{\"pid\":7}" > l.lock/owner.json; set -C; echo 7 > f.lock; ln -s box:7 s.lock; echo ready; while :; do sleep 1; done'; exit`)
	if said != "ready" {
		t.Fatal(said)
	}
	locks := m.Locks()
	for _, name := range []string{"l.lock", "f.lock", "s.lock"} {
		if l := locks[name]; l.Verdict != "live" || l.Holder.PID == 7 || l.Rule != "named" && l.Rule != "creator" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	first.Kill()
	_, said = m.StartContainer(as7 + `ls; mkdir l.lock && (set -C; echo 7 > f.lock) && ln -s box:7 s.lock && echo free; while :; do sleep 1; done'; exit`)
	if said != "free" {
		t.Error(said)
	}
}

// TestPayloadOfAPIDNamespace runs a launcher in a container that writes the pid of its daemon, as the container
// sees it, and ends.
func TestPayloadOfAPIDNamespace(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	c, said := m.StartContainer(`bash -c 'setsid sleep 1000 & set -C; echo $! > x.lock'; cat x.lock; while :; do sleep 1; done`)
	if said == "" {
		t.Fatal("no pid")
	}
	harness.Eventually(t, "the daemon holds", func() bool {
		l := m.Locks()["x.lock"]
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.Holder.PID))
		return l.Verdict == "live" && string(comm) == "sleep\n"
	})
	m.MustFail("Device or resource busy", "rm x.lock")
	harness.Signal(t, m.Locks()["x.lock"].Holder.PID, unix.SIGKILL)
	harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
	c.Kill()
}

// TestCallersOutOfSight runs latchfs in a pid namespace with a /proc of its own, and programs outside of it.
func TestCallersOutOfSight(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "unshare")
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	log := &harness.Buffer{}
	daemon := exec.Command("unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "sh", "-c",
		`mount --make-rprivate /proc && mount -t proc proc /proc && exec "$0" mount --stale-after 6s --state-dir "$1" "$2"`, harness.Latchfs, state, dir)
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	m := &harness.Mount{T: t, Dir: dir}
	harness.Eventually(t, "it is mounted", func() bool { return harness.Exists(m.Path(".latchfs/status")) })
	s := m.StartScript(`set -C; echo $$ > x.lock; echo $$; while :; do sleep 1; done`)
	m.MustFail("cannot overwrite existing file", "set -C; echo 1 > x.lock")
	if l := m.Locks()["x.lock"]; l.Verdict != "unknown" || l.Holder.PID != 0 {
		t.Errorf("%+v", l)
	}
	m.MustRun("rm x.lock; set -C; echo 1 > x.lock") // only the permission bits protect it
	time.Sleep(6500 * time.Millisecond)             // only its age ends it
	m.MustRun("set -C; echo 1 > x.lock; rm x.lock")
	if !strings.Contains(log.String(), "too-old") {
		t.Error(log.String())
	}
	s.End()
}

// TestDaemonInAContainer runs latchfs in a container, and again in the next container on the same state directory.
func TestDaemonInAContainer(t *testing.T) {
	n := harness.NewBootNamespace(t)
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	t.Setenv("SAME_DIR", dir)
	t.Setenv("SAME_STATE", state)
	n.Run(`DIR=$SAME_DIR STATE=$SAME_STATE
		mounted; holder dead.lock; holder=$holder; test $holder -lt 100
		setsid sh -c 'mkdir "$1/dir.lock"; exec sleep 1000' x "$DIR" & until test -d "$DIR/dir.lock"; do sleep 0.01; done
		echo $holder > "$DIR/number"; ! rm "$DIR/dead.lock.x" 2>/dev/null
		"$LATCHFS" ls "$DIR" | grep -q "dead.lock .* live"`)
	if !harness.Exists(filepath.Join(dir, "dead.lock")) {
		t.Fatal("the first container left nothing")
	}
	n.Run(`DIR=$SAME_DIR STATE=$SAME_STATE
		pid=$(cat "$DIR/number"); echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
		sleep 1000 & test $! = $pid
		mounted
		test ! -e "$DIR/dead.lock"; test ! -e "$DIR/dir.lock" || { "$LATCHFS" ls --json "$DIR"; exit 1; }
		"$LATCHFS" umount "$DIR"`)
}

// TestProcOfAnotherNamespace checks that latchfs logs that it cannot identify any process if its /proc is that of
// another pid namespace.
func TestProcOfAnotherNamespace(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "unshare")
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", `
		"$0" mount --state-dir "$1" "$2" & n=0
		until test -e "$2/.latchfs/status"; do n=$((n+1)); test $n -lt 1000 || exit 1; sleep 0.01; done
		(set -C; echo $$ > "$2/x.lock"); "$0" ls "$2"; "$0" umount "$2" || umount "$2"`, harness.Latchfs, filepath.Join(t.TempDir(), "state"), dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no process can be identified") || !strings.Contains(string(out), "unknown") {
		t.Errorf("%v: %s", err, out)
	}
}
