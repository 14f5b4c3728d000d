//go:build linux

package locks

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestHoldersAreJudgedRightly checks that a lock is live as long as its holder exists, in whatever state, and free
// afterwards.
func TestHoldersAreJudgedRightly(t *testing.T) {
	t.Parallel()
	const hold = `set -C; echo $$ > x.lock; `
	for _, c := range []struct {
		name   string
		needs  string
		script string
		then   func(t *testing.T, pid int)
	}{
		{name: "forks", script: hold + `sleep 1000 & echo $$; while :; do sleep 1; done`},
		{name: "execs", script: hold + `echo $$; exec sleep 1000`, then: func(t *testing.T, pid int) {
			harness.Eventually(t, "it has called exec", func() bool {
				comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
				return string(comm) == "sleep\n"
			})
		}},
		{name: "changes its user", needs: "setpriv", script: hold + `echo $$; exec setpriv --reuid=1002 --regid=1002 --clear-groups sleep 1000`,
			then: func(t *testing.T, pid int) {
				harness.Eventually(t, "it has changed", func() bool {
					info, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
					status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
					return err == nil && info != nil && strings.Contains(string(status), "Uid:\t1002")
				})
			}},
		{name: "its first thread exits", script: `exec /usr/bin/python3 -c '
import ctypes, os, threading, time
fd = os.open("x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, str(os.getpid()).encode()); os.close(fd)
threading.Thread(target=lambda: time.sleep(1000)).start()
print(os.getpid(), flush=True)
ctypes.CDLL(None).syscall(60, 0)'`, then: func(t *testing.T, pid int) {
			harness.Eventually(t, "it looks like a zombie", func() bool { return harness.HasEnded(pid) })
		}},
		{name: "is stopped", script: hold + `echo $$; exec sleep 1000`, then: func(t *testing.T, pid int) {
			harness.Signal(t, pid, unix.SIGSTOP)
		}},
		{name: "is traced", needs: "strace", script: hold + `echo $$; exec sleep 1000`, then: func(t *testing.T, pid int) {
			tracer := exec.Command("strace", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(pid))
			if err := tracer.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = tracer.Process.Kill(); _ = tracer.Wait() })
			harness.Eventually(t, "it is traced", func() bool {
				status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				return strings.Contains(string(status), fmt.Sprintf("TracerPid:\t%d\n", tracer.Process.Pid))
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.needs != "" {
				harness.NeedProgram(t, c.needs)
			}
			m := harness.MountOver(t, t.TempDir(), "--stale-after", "1ms")
			s := m.StartScript(c.script)
			if c.then != nil {
				c.then(t, s.PID)
			}
			for range 3 {
				m.MustFail("cannot overwrite existing file", "set -C; : > x.lock")
				m.MustFail("Device or resource busy", "rm x.lock")
			}
			if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID {
				t.Errorf("%+v", l)
			}
			// Once dead it is a zombie too, because its parent, the test, has not waited for it.
			harness.Signal(t, s.PID, unix.SIGKILL)
			harness.Eventually(t, "it is free", func() bool { _, err := m.RunScript("set -C; : > x.lock"); return err == nil })
		})
	}
}

// TestZombieHoldsNothing checks a dead holder whose parent never waits for it.
func TestZombieHoldsNothing(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder := exec.Command("bash", "-c", "set -C; echo $$ > x.lock; kill -9 $$")
	holder.Dir = m.Dir
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Wait()
	harness.Eventually(t, "it is a zombie", func() bool { return harness.HasEnded(holder.Process.Pid) })
	if unix.Kill(holder.Process.Pid, 0) != nil {
		t.Error("kill(pid, 0) does not find it")
	}
	m.MustRun("set -C; echo $$ > x.lock")
}

// TestStoppedHolderKeepsItsLock checks that programs that judge locks by age do not take the lock of a stopped
// holder.
func TestStoppedHolderKeepsItsLock(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for 15 s, longer than proper-lockfile's limit")
	}
	harness.NeedProgram(t, "lockfile")
	m := harness.MountOver(t, t.TempDir())
	directory := m.StartScript(`mkdir d.lock; echo $$; read x < /dev/zero; while :; do sleep 1; done`)
	file := m.StartScript(`lockfile f.lock; echo $$; while :; do sleep 1; done`)
	for _, s := range []*harness.Script{directory, file} {
		harness.Signal(t, s.PID, unix.SIGSTOP)
	}
	time.Sleep(15 * time.Second)
	taken := make(chan string, 2)
	contend := func(name, script string) {
		if out, err := m.RunScript(script); err != nil {
			taken <- fmt.Sprintf("%s: %v: %s", name, err, out)
		} else {
			taken <- name
		}
	}
	go contend("proper-lockfile", fmt.Sprintf(`%s -e '
		require(%q).lock("d", { realpath: false, stale: 10000, retries: { retries: 1000, minTimeout: 50, maxTimeout: 50 } })
			.then((release) => release()).then(() => process.exit(0))'`, harness.Node(t), harness.NodePath("node_modules", "proper-lockfile")))
	go contend("lockfile", `lockfile -1 -l 5 -r 60 f.lock && rm -f f.lock`)
	select {
	case name := <-taken:
		t.Fatalf("%s took the lock", name)
	case <-time.After(7 * time.Second):
	}
	for _, name := range []string{"d.lock", "f.lock"} {
		if l := m.Locks()[name]; l.Verdict != "live" {
			t.Errorf("%s: %+v", name, l)
		}
	}
	directory.Kill()
	file.Kill()
	for range 2 {
		if name := <-taken; name != "proper-lockfile" && name != "lockfile" {
			t.Error(name)
		}
	}
}

// TestLiveLockLooksFresh checks that a live lock always looks recently modified to other processes, and as it is
// to its holder's family.
func TestLiveLockLooksFresh(t *testing.T) {
	t.Parallel()
	past := time.Now().Add(-30 * time.Second).Unix() // a file with an older time would be a copy
	for _, heartbeat := range []bool{true, false} {
		var flags []string
		if !heartbeat {
			flags = []string{"--no-heartbeat"}
		}
		m := harness.MountOver(t, t.TempDir(), flags...)
		for kind, take := range map[string]string{"file": `set -C; echo $$ > x.lock`, "directory": `mkdir x.lock`} {
			s := m.StartScript(take + `; touch -d @` + strconv.FormatInt(past, 10) + `.123456789 x.lock; mkfifo ask answer 2>/dev/null; echo $$
				while read x < ask; do stat -c %.9Y x.lock > answer; done`)
			out, err := m.RunScript(`stat -c '%Y %Z %W' x.lock; date +%s`)
			var modified, changed, born, now int64
			if _, serr := fmt.Sscan(out, &modified, &changed, &born, &now); err != nil || serr != nil {
				t.Fatalf("%v %v: %s", err, serr, out)
			}
			if fresh := now-modified <= 2 && now-changed <= 2; fresh != heartbeat || !fresh && modified != past {
				t.Errorf("%s, heartbeat %v: modified %d, changed %d, it is %d", kind, heartbeat, modified, changed, now)
			}
			if now-born > 60 {
				t.Errorf("%s: its birth time is %d, it is %d", kind, born, now)
			}
			// Another process may touch(1) the lock. Its holder does not see that.
			m.MustRun("touch x.lock")
			if out, err := m.RunScript("echo > ask; cat answer"); err != nil || out != strconv.FormatInt(past, 10)+".123456789" {
				t.Errorf("%s: its holder sees %q %v", kind, out, err)
			}
			s.Kill()
			s.End()
			harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
			m.MustRun("rm -f ask answer")
		}
	}
}
