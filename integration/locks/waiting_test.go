//go:build linux

package locks

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestWaitersTakeTurns checks that 64 processes take a lock in the order in which they began to wait, whether the
// holder before releases the lock or is killed, and whether or not the server is killed.
func TestWaitersTakeTurns(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	const name = "x.lock"
	path := m.Path(name)
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", path)
	var queue []*harness.Process
	for i := range 64 {
		p := harness.StartProcess(t)
		p.Send("queue", m.WaitFile(name), path)
		queue = append(queue, p)
		m.WaitForWaiters(i + 1)
	}
	for i, p := range queue {
		switch {
		case i == 20 || i == 40:
			m.KillServer()
			m.WaitUntilServed()
			m.WaitForWaiters(len(queue) - i)
			holder.Must("ok", "remove", path)
		case i%4 == 1:
			holder.Kill()
		default:
			holder.Must("ok", "remove", path)
		}
		if answer := p.Answer(); answer != "ok" {
			t.Fatalf("waiter %d: %s", i, answer)
		}
		if payload, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(payload)) != strconv.Itoa(p.PID()) {
			t.Fatalf("the lock is held by %q (%v) when it is the turn of %d", payload, err, p.PID())
		}
		holder = p
	}
	m.WaitForWaiters(0)
}

// TestTurnIsReserved checks that no other process can take a free name, in any way, during the turn of the process
// that waited for it.
func TestTurnIsReserved(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	path, other := m.Path("x.lock"), m.Path("file")
	waiter, contender := harness.StartProcess(t), harness.StartProcess(t)
	contender.Must("ok", "take", other)
	waiter.Must("ok", "await", m.WaitFile("x.lock"))
	for _, try := range [][]string{{"EEXIST", "take", path}, {"EEXIST", "mkdir", path}, {"EEXIST", "symlink", path}, {"EEXIST", "link", other, path}, {"EBUSY", "rename", other, path}} {
		contender.Must(try[0], try[1:]...)
	}
	waiter.Must("ok", "take", path)
	contender.Must("EEXIST", "take", path)
	waiter.Must("ok", "remove", path)
	// A turn ends if it is not used.
	waiter.Must("ok", "await", m.WaitFile("x.lock"))
	harness.Eventually(t, "the turn is over", func() bool { return contender.Do("take", path) == "ok" })
	contender.Must("ok", "remove", path)
	// cat(1), which waited, has ended when its script takes the lock.
	script := exec.Command("sh", "-c", `cat "$0" && set -C && echo $$ > "$1" && exec sleep 1000`, m.WaitFile("x.lock"), path)
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	defer script.Wait()
	defer script.Process.Kill()
	harness.Eventually(t, "the script has the lock", func() bool { return m.Locks()["x.lock"].Holder.PID == script.Process.Pid })
}

// TestWaitEnds checks that a waiting process learns of everything that frees a name, and that it can give up.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	beneath := t.TempDir()
	if err := os.WriteFile(filepath.Join(beneath, "old.lock"), []byte("another.example:4711\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := harness.MountOver(t, beneath, "--stale-after", "2s")
	if err := os.Mkdir(m.Path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		free func(holder *harness.Process, path string)
	}{
		{"released by an operator", func(_ *harness.Process, path string) {
			if out, err := exec.Command(harness.Latchfs, "release", "--force", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}},
		{"renamed away", func(holder *harness.Process, path string) { holder.Must("ok", "rename", path, m.Path("kept")) }},
		{"renamed to another lock name", func(holder *harness.Process, path string) { holder.Must("ok", "rename", path, path+"2.lock") }},
		{"renamed with its directory", func(holder *harness.Process, path string) {
			holder.Must("ok", "rename", m.Path("dir"), m.Path("other"))
			holder.Must("ok", "mkdir", m.Path("dir"))
		}},
		{"killed", func(holder *harness.Process, _ string) { holder.Kill() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, holder, waiter := m.Path("dir/x.lock"), harness.StartProcess(t), harness.StartProcess(t)
			holder.Must("ok", "take", path)
			waiter.Send("await", m.WaitFile("dir/x.lock"))
			m.WaitForWaiters(1)
			c.free(holder, path)
			if answer := waiter.Answer(); answer != "ok" {
				t.Errorf("answered %s", answer)
			}
			waiter.Must("ok", "take", path)
			waiter.Must("ok", "remove", path)
		})
	}
	t.Run("too old", func(t *testing.T) {
		waiter := harness.StartProcess(t)
		waiter.Send("queue", m.WaitFile("old.lock"), m.Path("old.lock"))
		if answer := waiter.Answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
	})
	t.Run("data is removed", func(t *testing.T) {
		waiter := harness.StartProcess(t)
		if err := os.WriteFile(m.Path("data.lock"), []byte("data\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		waiter.Send("await", m.WaitFile("data.lock"))
		m.WaitForWaiters(1)
		if err := os.Remove(m.Path("data.lock")); err != nil {
			t.Fatal(err)
		}
		if answer := waiter.Answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
	})
	t.Run("given up", func(t *testing.T) {
		path, holder, waiter, next := m.Path("g.lock"), harness.StartProcess(t), harness.StartProcess(t), harness.StartProcess(t)
		holder.Must("ok", "take", path)
		waiter.Send("queue", m.WaitFile("g.lock"), path)
		m.WaitForWaiters(1)
		next.Send("queue", m.WaitFile("g.lock"), path)
		m.WaitForWaiters(2)
		waiter.Kill()
		m.WaitForWaiters(1)
		holder.Must("ok", "remove", path)
		if answer := next.Answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
		fd, err := unix.Open(m.WaitFile("g.lock"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EAGAIN {
			t.Errorf("with O_NONBLOCK: %d %v", n, err)
		}
	})
}

// TestManyWaiting checks that the mount serves while 10,000 threads wait.
func TestManyWaiting(t *testing.T) {
	m := harness.MountOver(t, t.TempDir())
	n := 10_000
	if harness.RaceEnabled {
		n = 1000 // the race detector needs too much memory for more
	}
	holder, crowd, other := harness.StartProcess(t), harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	crowd.Must("ok", "crowd", m.WaitFile("x.lock"), strconv.Itoa(n))
	m.WaitForWaiters(n)
	for range 20 {
		other.Must("ok", "take", m.Path("y.lock"))
		other.Must("EEXIST", "take", m.Path("x.lock"))
		other.Must("EBUSY", "remove", m.Path("x.lock"))
		other.Must("ok", "remove", m.Path("y.lock"))
		if _, err := os.ReadDir(m.Dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d KiB resident with %d waiting", harness.StatusNumber(t, fmt.Sprintf("/proc/%d/status", m.Server()), "VmRSS:"), n)
	crowd.Kill()
	m.WaitForWaiters(0)
	holder.Must("ok", "remove", m.Path("x.lock"))
}

// TestNoRequestWaits checks that every request for which the kernel locks a directory is answered at once, while
// the holder of a lock is stopped and others wait for it. The holder's own requests in that directory succeed
// afterwards.
func TestNoRequestWaits(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	path, file, dir := m.Path("x.lock"), m.Path("file"), m.Path("dir.lock")
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	other.Must("ok", "take", file)
	holder.Must("ok", "take", path)
	holder.Must("ok", "mkdir", dir)
	for i := range 10 {
		harness.StartProcess(t).Send("queue", m.WaitFile("x.lock"), path)
		m.WaitForWaiters(i + 1)
	}
	harness.Signal(t, holder.PID(), unix.SIGSTOP)
	for _, try := range [][]string{
		{"EEXIST", "take", path}, {"EEXIST", "mkdir", path}, {"EEXIST", "symlink", path}, {"EEXIST", "link", file, path},
		{"EBUSY", "remove", path}, {"EBUSY", "rename", file, path}, {"EBUSY", "rename", path, m.Path("elsewhere")}, {"EBUSY", "rmdir", dir},
		{"EBUSY", "take", filepath.Join(dir, "owner")}, {"EBUSY", "truncate", path}, {"EBUSY", "overwrite", path}, {"ok", "look", path},
	} {
		other.Must(try[0], try[1:]...)
	}
	harness.Signal(t, holder.PID(), unix.SIGCONT)
	holder.Must("ok", "remove", path)
	holder.Must("ok", "rmdir", dir)
}

// TestWaitTakesTheRightToTake checks that a process that may not create files in a directory cannot keep others
// from a lock by waiting.
func TestWaitTakesTheRightToTake(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	for dir, mode := range map[string]os.FileMode{"open": 0o777, "closed": 0o755, "closed/open": 0o777, "hidden": 0o700, "hidden/open": 0o777} {
		if err := os.MkdirAll(m.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Chmod(m.Path(dir), mode); err != nil {
				t.Error(err)
			}
		}()
	}
	for dir, mode := range map[string]os.FileMode{"open": 0o777, "closed": 0o755, "closed/open": 0o777, "hidden": 0o700, "hidden/open": 0o777} {
		if err := os.Chmod(m.Path(dir), mode); err != nil {
			t.Fatal(err)
		}
	}
	stranger := harness.StartProcess(t, harness.AsUser(t, 65534)...)
	for dir, answer := range map[string]string{"open": "ok", "closed": "EACCES", "closed/open": "ok", "hidden": "EACCES", "hidden/open": "EACCES"} {
		stranger.Must(answer, "await", m.WaitFile(dir+"/x.lock"))
	}
	// Both the process that opened the file and the one that reads it must have the permission.
	harness.WithUID(65534, func() {
		if fd, err := unix.Open(m.WaitFile("closed/x.lock"), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != unix.EACCES {
			t.Errorf("opened for another to read: %d %v", fd, err)
		}
	})
	fd := harness.OpenAs(t, 0, m.WaitFile("closed/x.lock"), unix.O_RDONLY)
	harness.WithUID(65534, func() {
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EACCES {
			t.Errorf("opened by another: %d %v", n, err)
		}
	})
}

// TestLockCommand runs commands under a lock, as with flock(1).
func TestLockCommand(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	path := m.Path("x.lock")
	if err := os.WriteFile(m.Path("no-program"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(code int, words ...string) string {
		t.Helper()
		cmd := exec.Command(harness.Latchfs, append([]string{"lock"}, words...)...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Errorf("lock %q: exit code %d, not %d: %s", words, got, code, out)
		}
		return string(out)
	}
	out := run(7, path, "--", "sh", "-c", `cat "$0"; echo $$; exit 7`, path)
	if lines := strings.Fields(out); len(lines) != 2 || lines[0] != lines[1] {
		t.Errorf("the lock does not name the command: %q", out)
	}
	run(143, path, "sh", "-c", "kill -TERM $$")
	run(127, path, "no-such-program")
	run(126, path, m.Path("no-program"))
	run(2, m.Path("no-lock"), "true")
	run(2, path)
	run(4, filepath.Join(t.TempDir(), "x.lock"), "true")
	if harness.Exists(path) {
		t.Error("a lock is left behind")
	}
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", path)
	run(1, "-n", path, "true")
	run(1, "-w", "0.05", path, "true")
	run(33, "-E", "33", "-w", "0.05", path, "true")
	waiting := exec.Command(harness.Latchfs, "lock", "-w", "60", path, "--", "sleep", "1000")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	defer waiting.Wait()
	m.WaitForWaiters(1)
	holder.Kill()
	holding := func() bool {
		l := m.Locks()["x.lock"]
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.Holder.PID))
		return l.Verdict == "live" && string(comm) == "sleep\n"
	}
	harness.Eventually(t, "the command holds", holding)
	// If latchfs lock is killed, the command runs on and holds the lock.
	if err := waiting.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = waiting.Wait()
	if !holding() {
		t.Errorf("the lock went with latchfs lock: %+v", m.Locks())
	}
	harness.Signal(t, m.Locks()["x.lock"].Holder.PID, unix.SIGKILL)
	start := time.Now()
	run(0, path, "true")
	t.Logf("taken %v after its holder was killed", time.Since(start))
}

// TestInterruptedOnce checks that the kernel sends an INTERRUPT once for each call, and that none is lost,
// whenever it comes.
func TestInterruptedOnce(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	harness.StartProcess(t).Must("ok", "take", m.Path("x.lock"))
	const rounds = 100
	for range rounds {
		waiter := harness.StartProcess(t)
		waiter.Send("await", m.WaitFile("x.lock"))
		time.Sleep(rand.N(5 * time.Millisecond))
		waiter.Kill() // returns once the process has ended
	}
	m.WaitForWaiters(0)
	text, err := os.ReadFile(m.Path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	if n := harness.ParseMetrics(t, text)["latchfs_requests_total kind=interrupt"]; n > 2*rounds {
		t.Errorf("%.0f INTERRUPTs of %d calls", n, rounds)
	} else {
		t.Logf("%.0f INTERRUPTs of %d calls", n, rounds)
	}
}
