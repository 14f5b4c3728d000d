//go:build linux

package locks

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

	"latchfs/integration/harness"
)

// TestOrphanOfAProcessGroupIsNotTooOld runs a script that makes a lock directory, starts a daemon and ends. The
// holder is then not known. The daemon may be the holder, so age does not end the lock while the daemon runs.
func TestOrphanOfAProcessGroupIsNotTooOld(t *testing.T) {
	t.Parallel()
	const limit = time.Second
	m := harness.MountOver(t, t.TempDir(), "--stale-after", limit.String())
	// The script has no parent that waits for it, so that only the daemon is left when the script ends.
	s := m.StartScript(`starter=$$; setsid bash -c '
		while test $(ps -o ppid= $$) = $0; do sleep 0.01; done
		mkdir x.lock; cd /; nohup sleep 1000 >/dev/null & echo $!' $starter 2>/dev/null &`)
	defer func() { _ = unix.Kill(s.PID, unix.SIGKILL) }()
	harness.Eventually(t, "the script has ended", func() bool { return m.Verdicts()["x.lock"].Verdict == "unknown" })
	for _, restart := range harness.Restarts {
		restart.Do(m)
		for start := time.Now(); time.Since(start) < limit*3/2; time.Sleep(limit / 10) {
			if l := m.Verdicts()["x.lock"]; l.Verdict != "unknown" {
				t.Fatalf("%s, after %v: %+v", restart.Name, time.Since(start), l)
			}
		}
	}
	s.Kill()
	harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
}

// TestDaemonOfAnotherUserHoldsWhatItsLauncherWrote checks that root may name its child, which runs as another
// user, as the holder.
func TestDaemonOfAnotherUserHoldsWhatItsLauncherWrote(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	stranger := harness.StartProcess(t)
	for _, restart := range harness.Restarts {
		s := m.StartScript(`set -C; exec </dev/null 2>/dev/null; (cd /; exec ` + strings.Join(harness.AsUser(t, harness.AttackerUID), " ") + ` sleep 1000 >/dev/null) & echo $! >x.lock; echo $!`)
		_ = s.Cmd.Wait()
		restart.Do(m)
		if l := m.Verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID {
			t.Errorf("%s: %+v", restart.Name, l)
		}
		stranger.Must("EEXIST", "take", m.Path("x.lock"))
		stranger.Must("EBUSY", "remove", m.Path("x.lock"))
		s.Kill()
		stranger.Must("ok", "take", m.Path("x.lock"))
		stranger.Must("ok", "remove", m.Path("x.lock"))
	}
}

// TestEverybodysAncestorHoldsNothing checks that a user's process cannot name as the holder the root process that
// logged the user in.
func TestEverybodysAncestorHoldsNothing(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	for _, restart := range harness.Restarts {
		stranger := harness.StartProcess(t)
		s := m.StartScript(strings.Join(harness.AsUser(t, harness.AttackerUID), " ") + ` bash -c 'set -C; echo '$$' >x.lock'; cd /; echo $$; exec sleep 1000`)
		restart.Do(m)
		if l := m.Verdicts()["x.lock"]; l.Verdict == "live" || l.Verdict == "" {
			t.Errorf("%s: process %d is the user's ancestor; listed as %+v", restart.Name, s.PID, l)
		}
		harness.CheckContent(t, m.Path("x.lock"), fmt.Sprintln(s.PID))
		if answer := stranger.Do("remove", m.Path("x.lock")); answer != "ok" {
			t.Fatalf("%s: remove: %s", restart.Name, answer)
		}
		s.End()
	}
}

// TestLongPIDFileIsHeld checks pid files of more than 256 bytes, as Postgres writes them.
func TestLongPIDFileIsHeld(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	long := strings.Repeat("/a-long-name", 30)
	for _, restart := range harness.Restarts {
		stranger := harness.StartProcess(t)
		s := m.StartScript(`printf '%s\n' $$ ` + long + `/data 1795000000 5432 ` + long + `/run '*' '  5432001         7' >d.pid; cd /; echo $$; exec sleep 1000`)
		restart.Do(m)
		if l := m.Verdicts()["d.pid"]; l.Verdict != "live" || l.Holder.PID != s.PID || l.Kind != "pid-file" {
			t.Errorf("%s: %+v", restart.Name, l)
		}
		stranger.Must("EBUSY", "remove", m.Path("d.pid"))
		s.Kill()
		harness.Eventually(t, "it is gone", func() bool { return !harness.Exists(m.Path("d.pid")) })
		s.End()
	}
}

// TestToolsNameWhoHasTheDescriptor checks the tools for a lock whose creator is dead while its descriptor is open
// in another process. The tools do not name the dead process as the holder or advise to kill it, because its pid
// may be reused.
func TestToolsNameWhoHasTheDescriptor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		named        bool // whether the lock names the child of its creator, which has it open
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
			m := harness.MountOver(t, t.TempDir())
			stranger := harness.StartProcess(t)
			maker := exec.Command("/usr/bin/python3", "-c", c.script)
			maker.Dir = m.Dir
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
				stranger.Must("EEXIST", "take", m.Path("x.lock"))
				stranger.Must("EBUSY", "remove", m.Path("x.lock"))
				if l := m.Verdicts()["x.lock"]; l.Verdict != "live" || l.Rule != "descriptor" {
					t.Errorf("%+v", l)
				}
				why, err := exec.Command(harness.Latchfs, "why", m.Path("x.lock")).CombinedOutput()
				if said := string(why); err != nil || advice.MatchString(said) || !strings.Contains(said, "ended") {
					t.Errorf("%v: of process %d, which has ended: %s", err, pid, said)
				} else if c.named && !strings.Contains(said, strconv.Itoa(child)) {
					t.Errorf("process %d has it open, and is not named: %s", child, said)
				}
				m.KillServer()
				m.WaitUntilServed()
			}
			_ = unix.Kill(child, unix.SIGKILL)
			harness.Eventually(t, "it is free", func() bool { return stranger.Do("take", m.Path("x.lock")) == "ok" })
		})
	}
}
