//go:build linux

package integration

import (
	"bufio"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOrphanOfAProcessGroupIsNotTooOld: a script makes a lock directory, starts a daemon and ends. Nobody is
// known to hold the directory; while the daemon runs it may, so age does not end the lock.
func TestOrphanOfAProcessGroupIsNotTooOld(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	m := mountOver(t, t.TempDir(), "--stale-after", limit.String())
	// The script is an orphan, so that nobody but the daemon is left when it ends.
	s := m.startScript(`starter=$$; setsid bash -c '
		while test $(ps -o ppid= $$) = $0; do sleep 0.01; done
		mkdir x.lock; cd /; nohup sleep 1000 >/dev/null & echo $!' $starter 2>/dev/null &`)
	defer func() { _ = unix.Kill(s.pid, unix.SIGKILL) }()
	eventually(t, "the script has ended", func() bool { return m.verdicts()["x.lock"].Verdict == "unknown" })
	for _, restart := range restarts {
		restart.do(m)
		for start := time.Now(); time.Since(start) < limit*3/2; time.Sleep(limit / 10) {
			if l := m.verdicts()["x.lock"]; l.Verdict != "unknown" {
				t.Fatalf("%s, after %v: %+v", restart.name, time.Since(start), l)
			}
		}
	}
	s.kill()
	eventually(t, "it is free", func() bool { return !exists(m.path("x.lock")) })
}

// TestDaemonOfAnotherUserHoldsWhatItsLauncherWrote: root may name its child of another user.
func TestDaemonOfAnotherUserHoldsWhatItsLauncherWrote(t *testing.T) {
	t.Parallel()
	m := mountOver(t, sharedDir(t))
	stranger := newLocker(t)
	for _, restart := range restarts {
		s := m.startScript(`set -C; exec </dev/null 2>/dev/null; (cd /; exec ` + strings.Join(asUser(t, attackerUID), " ") + ` sleep 1000 >/dev/null) & echo $! >x.lock; echo $!`)
		_ = s.cmd.Wait()
		restart.do(m)
		if l := m.verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.pid {
			t.Errorf("%s: %+v", restart.name, l)
		}
		stranger.must("EEXIST", "take", m.path("x.lock"))
		stranger.must("EBUSY", "remove", m.path("x.lock"))
		s.kill()
		stranger.must("ok", "take", m.path("x.lock"))
		stranger.must("ok", "remove", m.path("x.lock"))
	}
}

// TestEverybodysAncestorHoldsNothing: a user names the daemon that logged it in, which is root's, and ends.
func TestEverybodysAncestorHoldsNothing(t *testing.T) {
	t.Parallel()
	m := mountOver(t, sharedDir(t))
	for _, restart := range restarts {
		stranger := newLocker(t)
		s := m.startScript(strings.Join(asUser(t, attackerUID), " ") + ` bash -c 'set -C; echo '$$' >x.lock'; cd /; echo $$; exec sleep 1000`)
		restart.do(m)
		if l := m.verdicts()["x.lock"]; l.Verdict == "live" || l.Verdict == "" {
			t.Errorf("%s: process %d is the user's ancestor; listed as %+v", restart.name, s.pid, l)
		}
		holds(t, m.path("x.lock"), fmt.Sprintln(s.pid))
		if answer := stranger.do("remove", m.path("x.lock")); answer != "ok" {
			t.Fatalf("%s: remove: %s", restart.name, answer)
		}
		s.end()
	}
}

// TestLongPIDFileIsHeld: Postgres writes more than 256 bytes into one.
func TestLongPIDFileIsHeld(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	long := strings.Repeat("/a-long-name", 30)
	for _, restart := range restarts {
		stranger := newLocker(t)
		s := m.startScript(`printf '%s\n' $$ ` + long + `/data 1795000000 5432 ` + long + `/run '*' '  5432001         7' >d.pid; cd /; echo $$; exec sleep 1000`)
		restart.do(m)
		if l := m.verdicts()["d.pid"]; l.Verdict != "live" || l.Holder.PID != s.pid || l.Kind != "pid-file" {
			t.Errorf("%s: %+v", restart.name, l)
		}
		stranger.must("EBUSY", "remove", m.path("d.pid"))
		s.kill()
		eventually(t, "it is gone", func() bool { return !exists(m.path("d.pid")) })
		s.end()
	}
}

// TestToolsNameWhoHasTheDescriptor: the maker of a lock is dead, and its descriptor lives on. The tools do not say
// that the dead process holds it, nor that it should be killed: its pid is free for others.
func TestToolsNameWhoHasTheDescriptor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		named        bool // the process that has it open, which is the maker's child
	}{
		{"in a child", `import os, time
fd = os.open("x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, str(os.getpid()).encode())
os.chdir("/"); child = os.fork()
if child == 0: time.sleep(1000)
print(os.getpid(), child, flush=True); time.sleep(1000)`, true},
		{"in a socket that nobody reads", `import os, socket, time
here, there = socket.socketpair(); child = os.fork()
if child == 0: here.close(); os.chdir("/"); time.sleep(1000)
there.close()
fd = os.open("x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY); os.write(fd, str(os.getpid()).encode())
socket.send_fds(here, [b"x"], [fd])
os.chdir("/"); print(os.getpid(), child, flush=True); time.sleep(1000)`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mountOver(t, t.TempDir())
			stranger := newLocker(t)
			maker := exec.Command("/usr/bin/python3", "-c", c.script)
			maker.Dir = m.dir
			out, err := maker.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := maker.Start(); err != nil {
				t.Fatal(err)
			}
			var child int
			if _, err := fmt.Fscan(bufio.NewReader(out), new(int), &child); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Kill(child, unix.SIGKILL) }()
			_ = maker.Process.Kill()
			_ = maker.Wait()
			pid := maker.Process.Pid
			advice := regexp.MustCompile(`kill ` + strconv.Itoa(pid) + `\b|held by process ` + strconv.Itoa(pid) + `\b`)
			for range 2 {
				stranger.must("EEXIST", "take", m.path("x.lock"))
				stranger.must("EBUSY", "remove", m.path("x.lock"))
				if l := m.verdicts()["x.lock"]; l.Verdict != "live" || l.Rule != "descriptor" {
					t.Errorf("%+v", l)
				}
				why, err := exec.Command(latchfs, "why", m.path("x.lock")).CombinedOutput()
				if said := string(why); err != nil || advice.MatchString(said) || !strings.Contains(said, "ended") {
					t.Errorf("%v: of process %d, which has ended: %s", err, pid, said)
				} else if c.named && !strings.Contains(said, strconv.Itoa(child)) {
					t.Errorf("process %d has it open, and is not named: %s", child, said)
				}
				m.killServer()
				m.eventuallyServed()
			}
			_ = unix.Kill(child, unix.SIGKILL)
			eventually(t, "it is free", func() bool { return stranger.do("take", m.path("x.lock")) == "ok" })
		})
	}
}
