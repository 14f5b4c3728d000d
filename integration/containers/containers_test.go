//go:build linux

package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// container is a process tree in user, pid, mount and UTS namespaces of its own, in each of
// which the first process is pid 1 of a machine called box.
type container struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

// newContainer runs a script as its pid 1, and returns once that has printed a line.
func (m *mount) newContainer(script string) (*container, string) {
	m.t.Helper()
	needProgram(m.t, "unshare")
	c := &container{t: m.t, cmd: exec.Command("unshare", "--user", "--map-root-user", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc",
		"bash", "-c", "hostname box\n"+script)}
	c.cmd.Dir = m.dir
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(c.kill)
	c.out = bufio.NewReader(out)
	silent := time.AfterFunc(10*time.Second, func() { _ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) })
	defer silent.Stop()
	line, err := c.out.ReadString('\n')
	if err != nil {
		m.t.Fatalf("the container said nothing: %v", err)
	}
	return c, strings.TrimSpace(line)
}

// kill ends every process in it at once, as the death of pid 1 does.
func (c *container) kill() {
	if c.cmd.ProcessState == nil {
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
		_ = c.cmd.Wait()
		eventually(c.t, "the container has ended", func() bool { return unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) != nil })
	}
}

// holdAs1 takes a lock as pid 1 and writes what every such container would.
const holdAs1 = `test $$ = 1; take() { (set -C; echo '{"pid":1,"hostname":"box"}' > x.lock) 2>/dev/null; }
	if take; then echo taken; else echo busy; fi; while :; do sleep 1; done`

// TestContainersExcludeEachOther: two with the same host name, the same pids and payloads that
// are the same to the byte.
func TestContainersExcludeEachOther(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for range 3 {
		first, said := m.newContainer(holdAs1)
		if said != "taken" {
			t.Fatal(said)
		}
		second, said := m.newContainer(holdAs1)
		if said != "busy" {
			t.Fatal("both have it")
		}
		third, said := m.newContainer(`rm -f x.lock 2>/dev/null; test -e x.lock && echo there; while :; do sleep 1; done`)
		if said != "there" {
			t.Error("another container removed it")
		}
		m.mustFail("Device or resource busy", "rm x.lock")
		if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID == 1 {
			t.Errorf("%+v", l)
		}
		first.kill() // the others have a pid 1 as well
		next, said := m.newContainer(holdAs1)
		if said != "taken" {
			t.Error("the lock of a dead container is not free")
		}
		for _, c := range []*container{second, third, next} {
			c.kill()
		}
	}
}

// TestContainerRestart: what a former container left is free in the next one, where its pid is
// another process.
func TestContainerRestart(t *testing.T) {
	m := mountOver(t, t.TempDir())
	// As pid 7 of its container, by way of the kernel's counter.
	as7 := `echo 6 > /proc/sys/kernel/ns_last_pid; bash -c 'test $$ = 7 || exit 1; `
	first, said := m.newContainer(as7 + `mkdir l.lock; echo "{\"pid\":7}" > l.lock/owner.json; set -C; echo 7 > f.lock; ln -s box:7 s.lock; echo ready; while :; do sleep 1; done'; exit`)
	if said != "ready" {
		t.Fatal(said)
	}
	locks := m.locks()
	for _, name := range []string{"l.lock", "f.lock", "s.lock"} {
		if l := locks[name]; l.Verdict != "live" || l.Holder.PID == 7 || l.Rule != "named" && l.Rule != "creator" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	first.kill()
	_, said = m.newContainer(as7 + `ls; mkdir l.lock && (set -C; echo 7 > f.lock) && ln -s box:7 s.lock && echo free; while :; do sleep 1; done'; exit`)
	if said != "free" {
		t.Error(said)
	}
}

// TestPayloadOfAPIDNamespace: a launcher in a container names its daemon by the number that has
// there, and ends.
func TestPayloadOfAPIDNamespace(t *testing.T) {
	m := mountOver(t, t.TempDir())
	c, said := m.newContainer(`bash -c 'setsid sleep 1000 & set -C; echo $! > x.lock'; cat x.lock; while :; do sleep 1; done`)
	if said == "" {
		t.Fatal("no pid")
	}
	eventually(t, "the daemon holds", func() bool {
		l := m.locks()["x.lock"]
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.Holder.PID))
		return l.Verdict == "live" && string(comm) == "sleep\n"
	})
	m.mustFail("Device or resource busy", "rm x.lock")
	signal(t, m.locks()["x.lock"].Holder.PID, unix.SIGKILL)
	eventually(t, "it is free", func() bool { return !exists(m.path("x.lock")) })
	c.kill()
}

// TestCallersOutOfSight: latchfs runs in a pid namespace, with a /proc of its own, and programs
// outside of that use the mount.
func TestCallersOutOfSight(t *testing.T) {
	needFUSE(t)
	needProgram(t, "unshare")
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
	log := &logBuffer{}
	daemon := exec.Command("unshare", "--pid", "--mount", "--propagation", "unchanged", "--fork", "--kill-child", "sh", "-c",
		`mount --make-rprivate /proc && mount -t proc proc /proc && exec "$0" mount --stale-after 6s --state-dir "$1" "$2"`, latchfs, state, dir)
	daemon.Stderr = log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = daemon.Process.Kill(); _ = daemon.Wait() })
	m := &mount{t: t, dir: dir}
	eventually(t, "it is mounted", func() bool { return exists(m.path(".latchfs/status")) })
	s := m.startScript(`set -C; echo $$ > x.lock; echo $$; while :; do sleep 1; done`)
	m.mustFail("cannot overwrite existing file", "set -C; echo 1 > x.lock")
	if l := m.locks()["x.lock"]; l.Verdict != "unknown" || l.Holder.PID != 0 {
		t.Errorf("%+v", l)
	}
	m.mustDo("rm x.lock; set -C; echo 1 > x.lock") // permission bits alone
	time.Sleep(6500 * time.Millisecond)            // its age decides
	m.mustDo("set -C; echo 1 > x.lock; rm x.lock")
	if !strings.Contains(log.String(), "too-old") {
		t.Error(log.String())
	}
	s.end()
}

// TestDaemonInAContainer: latchfs runs inside, and inside of the next one on the same state.
func TestDaemonInAContainer(t *testing.T) {
	n := newNamespace(t)
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	t.Setenv("SAME_DIR", dir)
	t.Setenv("SAME_STATE", state)
	n.run(`DIR=$SAME_DIR STATE=$SAME_STATE
		mounted; holder dead.lock; holder=$holder; test $holder -lt 100
		setsid sh -c 'mkdir "$1/dir.lock"; exec sleep 1000' x "$DIR" & until test -d "$DIR/dir.lock"; do sleep 0.01; done
		echo $holder > "$DIR/number"; ! rm "$DIR/dead.lock.x" 2>/dev/null
		"$LATCHFS" ls "$DIR" | grep -q "dead.lock .* live"`)
	if !exists(filepath.Join(dir, "dead.lock")) {
		t.Fatal("the first container left nothing")
	}
	n.run(`DIR=$SAME_DIR STATE=$SAME_STATE
		pid=$(cat "$DIR/number"); echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
		sleep 1000 & test $! = $pid
		mounted
		test ! -e "$DIR/dead.lock"; test ! -e "$DIR/dir.lock" || { "$LATCHFS" ls --json "$DIR"; exit 1; }
		"$LATCHFS" umount "$DIR"`)
}

// TestProcOfAnotherNamespace: with the wrong /proc nobody can be identified, and it says so.
func TestProcOfAnotherNamespace(t *testing.T) {
	needFUSE(t)
	needProgram(t, "unshare")
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", "-c", `
		"$0" mount --state-dir "$1" "$2" & n=0
		until test -e "$2/.latchfs/status"; do n=$((n+1)); test $n -lt 1000 || exit 1; sleep 0.01; done
		(set -C; echo $$ > "$2/x.lock"); "$0" ls "$2"; "$0" umount "$2" || umount "$2"`, latchfs, filepath.Join(t.TempDir(), "state"), dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no process can be identified") || !strings.Contains(string(out), "unknown") {
		t.Errorf("%v: %s", err, out)
	}
}
