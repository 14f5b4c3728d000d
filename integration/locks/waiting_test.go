//go:build linux

package integration

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
)

// wait is the file that answers whose turn it is to take name.
func (m *mount) wait(name string) string { return m.path(".latchfs/wait/" + name) }

// eventuallyWaiting waits until so many wait.
func (m *mount) eventuallyWaiting(n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d wait", n), func() bool { return statusNumber(m.t, m.path(".latchfs/status"), `  "waiting":`) == n })
}

// TestWaitersTakeTurns: 64 processes get a lock in the order in which they came, whether the one before
// released it or was killed, and whether or not the server is killed meanwhile.
func TestWaitersTakeTurns(t *testing.T) {
	m := mountOver(t, t.TempDir())
	const name = "x.lock"
	path := m.path(name)
	holder := newLocker(t)
	holder.must("ok", "take", path)
	var queue []*process
	for i := range 64 {
		p := newLocker(t)
		fmt.Fprintln(p.in, "queue", m.wait(name), path)
		queue = append(queue, p)
		m.eventuallyWaiting(i + 1)
	}
	for i, p := range queue {
		switch {
		case i == 20 || i == 40:
			m.killServer()
			m.eventuallyServed()
			m.eventuallyWaiting(len(queue) - i)
			holder.must("ok", "remove", path)
		case i%4 == 1:
			holder.kill()
		default:
			holder.must("ok", "remove", path)
		}
		if answer := p.answer(); answer != "ok" {
			t.Fatalf("waiter %d: %s", i, answer)
		}
		if payload, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(payload)) != strconv.Itoa(p.pid()) {
			t.Fatalf("the lock is held by %q (%v) when it is the turn of %d", payload, err, p.pid())
		}
		holder = p
	}
	m.eventuallyWaiting(0)
}

// TestTurnIsReserved: a name that is free is nobody else's during the turn of who waited, in any way in
// which it could be taken.
func TestTurnIsReserved(t *testing.T) {
	m := mountOver(t, t.TempDir())
	path, other := m.path("x.lock"), m.path("file")
	waiter, contender := newLocker(t), newLocker(t)
	contender.must("ok", "take", other)
	waiter.must("ok", "await", m.wait("x.lock"))
	for _, try := range [][]string{{"EEXIST", "take", path}, {"EEXIST", "mkdir", path}, {"EEXIST", "symlink", path}, {"EEXIST", "link", other, path}, {"EBUSY", "rename", other, path}} {
		contender.must(try[0], try[1:]...)
	}
	waiter.must("ok", "take", path)
	contender.must("EEXIST", "take", path)
	waiter.must("ok", "remove", path)
	// A turn that is not used does not last.
	waiter.must("ok", "await", m.wait("x.lock"))
	eventually(t, "the turn is over", func() bool { return contender.do("take", path) == "ok" })
	contender.must("ok", "remove", path)
	// cat(1) has ended when its script takes the lock.
	script := exec.Command("sh", "-c", `cat "$0" && set -C && echo $$ > "$1" && exec sleep 1000`, m.wait("x.lock"), path)
	if err := script.Start(); err != nil {
		t.Fatal(err)
	}
	defer script.Wait()
	defer script.Process.Kill()
	eventually(t, "the script has the lock", func() bool { return m.locks()["x.lock"].Holder.PID == script.Process.Pid })
}

// TestWaitEnds: those who wait are told of whatever frees a name, and can give up.
func TestWaitEnds(t *testing.T) {
	beneath := t.TempDir()
	if err := os.WriteFile(filepath.Join(beneath, "old.lock"), []byte("another.example:4711\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m := mountOver(t, beneath, "--stale-after", "2s")
	if err := os.Mkdir(m.path("dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		free func(holder *process, path string)
	}{
		{"released by an operator", func(_ *process, path string) {
			if out, err := exec.Command(latchfs, "release", "--force", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}},
		{"renamed away", func(holder *process, path string) { holder.must("ok", "rename", path, m.path("kept")) }},
		{"renamed to another lock name", func(holder *process, path string) { holder.must("ok", "rename", path, path+"2.lock") }},
		{"renamed with its directory", func(holder *process, path string) {
			holder.must("ok", "rename", m.path("dir"), m.path("other"))
			holder.must("ok", "mkdir", m.path("dir"))
		}},
		{"killed", func(holder *process, _ string) { holder.kill() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path, holder, waiter := m.path("dir/x.lock"), newLocker(t), newLocker(t)
			holder.must("ok", "take", path)
			fmt.Fprintln(waiter.in, "await", m.wait("dir/x.lock"))
			m.eventuallyWaiting(1)
			c.free(holder, path)
			if answer := waiter.answer(); answer != "ok" {
				t.Errorf("answered %s", answer)
			}
			waiter.must("ok", "take", path)
			waiter.must("ok", "remove", path)
		})
	}
	t.Run("too old", func(t *testing.T) {
		waiter := newLocker(t)
		fmt.Fprintln(waiter.in, "queue", m.wait("old.lock"), m.path("old.lock"))
		if answer := waiter.answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
	})
	t.Run("data is removed", func(t *testing.T) {
		waiter := newLocker(t)
		if err := os.WriteFile(m.path("data.lock"), []byte("data\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(waiter.in, "await", m.wait("data.lock"))
		m.eventuallyWaiting(1)
		if err := os.Remove(m.path("data.lock")); err != nil {
			t.Fatal(err)
		}
		if answer := waiter.answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
	})
	t.Run("given up", func(t *testing.T) {
		path, holder, waiter, next := m.path("g.lock"), newLocker(t), newLocker(t), newLocker(t)
		holder.must("ok", "take", path)
		fmt.Fprintln(waiter.in, "queue", m.wait("g.lock"), path)
		m.eventuallyWaiting(1)
		fmt.Fprintln(next.in, "queue", m.wait("g.lock"), path)
		m.eventuallyWaiting(2)
		waiter.kill()
		m.eventuallyWaiting(1)
		holder.must("ok", "remove", path)
		if answer := next.answer(); answer != "ok" {
			t.Errorf("answered %s", answer)
		}
		fd, err := unix.Open(m.wait("g.lock"), unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EAGAIN {
			t.Errorf("with O_NONBLOCK: %d %v", n, err)
		}
	})
}

// TestManyWaiting: the mount serves while 10,000 wait.
func TestManyWaiting(t *testing.T) {
	m := mountOver(t, t.TempDir())
	n := 10_000
	if raceEnabled {
		n = 1000 // its shadow memory takes the machine's
	}
	holder, crowd, other := newLocker(t), newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	crowd.must("ok", "crowd", m.wait("x.lock"), strconv.Itoa(n))
	m.eventuallyWaiting(n)
	for range 20 {
		other.must("ok", "take", m.path("y.lock"))
		other.must("EEXIST", "take", m.path("x.lock"))
		other.must("EBUSY", "remove", m.path("x.lock"))
		other.must("ok", "remove", m.path("y.lock"))
		if _, err := os.ReadDir(m.dir); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d KiB resident with %d waiting", statusNumber(t, fmt.Sprintf("/proc/%d/status", m.server()), "VmRSS:"), n)
	crowd.kill()
	m.eventuallyWaiting(0)
	holder.must("ok", "remove", m.path("x.lock"))
}

// TestNoRequestWaits: whatever the kernel holds a directory for is answered while the holder of a lock
// is stopped and others wait for it; and then the holder's own requests in that directory are.
func TestNoRequestWaits(t *testing.T) {
	m := mountOver(t, t.TempDir())
	path, file, dir := m.path("x.lock"), m.path("file"), m.path("dir.lock")
	holder, other := newLocker(t), newLocker(t)
	other.must("ok", "take", file)
	holder.must("ok", "take", path)
	holder.must("ok", "mkdir", dir)
	for i := range 10 {
		fmt.Fprintln(newLocker(t).in, "queue", m.wait("x.lock"), path)
		m.eventuallyWaiting(i + 1)
	}
	signal(t, holder.pid(), unix.SIGSTOP)
	for _, try := range [][]string{
		{"EEXIST", "take", path}, {"EEXIST", "mkdir", path}, {"EEXIST", "symlink", path}, {"EEXIST", "link", file, path},
		{"EBUSY", "remove", path}, {"EBUSY", "rename", file, path}, {"EBUSY", "rename", path, m.path("elsewhere")}, {"EBUSY", "rmdir", dir},
		{"EBUSY", "take", filepath.Join(dir, "owner")}, {"EBUSY", "truncate", path}, {"EBUSY", "overwrite", path}, {"ok", "look", path},
	} {
		other.must(try[0], try[1:]...)
	}
	signal(t, holder.pid(), unix.SIGCONT)
	holder.must("ok", "remove", path)
	holder.must("ok", "rmdir", dir)
}

// TestWaitTakesTheRightToTake: who may not make a file in a directory cannot keep others from it by
// waiting.
func TestWaitTakesTheRightToTake(t *testing.T) {
	m := mountOver(t, sharedDir(t))
	for dir, mode := range map[string]os.FileMode{"open": 0o777, "closed": 0o755, "closed/open": 0o777, "hidden": 0o700, "hidden/open": 0o777} {
		if err := os.MkdirAll(m.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.Chmod(m.path(dir), mode); err != nil {
				t.Error(err)
			}
		}()
	}
	for dir, mode := range map[string]os.FileMode{"open": 0o777, "closed": 0o755, "closed/open": 0o777, "hidden": 0o700, "hidden/open": 0o777} {
		if err := os.Chmod(m.path(dir), mode); err != nil {
			t.Fatal(err)
		}
	}
	stranger := newLocker(t, asUser(t, 65534)...)
	for dir, answer := range map[string]string{"open": "ok", "closed": "EACCES", "closed/open": "ok", "hidden": "EACCES", "hidden/open": "EACCES"} {
		stranger.must(answer, "await", m.wait(dir+"/x.lock"))
	}
	// Both who opened the file and who reads it must have it.
	as(65534, func() {
		if fd, err := unix.Open(m.wait("closed/x.lock"), unix.O_RDONLY, 0); err != unix.EACCES {
			t.Errorf("opened for another to read: %d %v", fd, err)
		}
	})
	fd := openAs(t, 0, m.wait("closed/x.lock"), unix.O_RDONLY)
	as(65534, func() {
		if n, err := unix.Read(fd, make([]byte, 100)); err != unix.EACCES {
			t.Errorf("opened by another: %d %v", n, err)
		}
	})
}

// TestLockCommand runs commands under a lock, as with flock(1).
func TestLockCommand(t *testing.T) {
	m := mountOver(t, t.TempDir())
	path := m.path("x.lock")
	if err := os.WriteFile(m.path("no-program"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(code int, words ...string) string {
		t.Helper()
		cmd := exec.Command(latchfs, append([]string{"lock"}, words...)...)
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
	run(126, path, m.path("no-program"))
	run(2, m.path("no-lock"), "true")
	run(2, path)
	run(4, filepath.Join(t.TempDir(), "x.lock"), "true")
	if exists(path) {
		t.Error("a lock is left behind")
	}
	holder := newLocker(t)
	holder.must("ok", "take", path)
	run(1, "-n", path, "true")
	run(1, "-w", "0.05", path, "true")
	run(33, "-E", "33", "-w", "0.05", path, "true")
	waiting := exec.Command(latchfs, "lock", "-w", "60", path, "--", "sleep", "1000")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	defer waiting.Wait()
	m.eventuallyWaiting(1)
	holder.kill()
	holding := func() bool {
		l := m.locks()["x.lock"]
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.Holder.PID))
		return l.Verdict == "live" && string(comm) == "sleep\n"
	}
	eventually(t, "the command holds", holding)
	// latchfs lock is killed: the command goes on, and holds.
	if err := waiting.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = waiting.Wait()
	if !holding() {
		t.Errorf("the lock went with latchfs lock: %+v", m.locks())
	}
	signal(t, m.locks()["x.lock"].Holder.PID, unix.SIGKILL)
	start := time.Now()
	run(0, path, "true")
	t.Logf("taken %v after its holder was killed", time.Since(start))
}

// TestInterruptedOnce: the kernel is not asked to send an INTERRUPT again, and none is lost, whenever it comes.
func TestInterruptedOnce(t *testing.T) {
	m := mountOver(t, t.TempDir())
	newLocker(t).must("ok", "take", m.path("x.lock"))
	const rounds = 100
	for range rounds {
		waiter := newLocker(t)
		fmt.Fprintln(waiter.in, "await", m.wait("x.lock"))
		time.Sleep(rand.N(5 * time.Millisecond))
		waiter.kill() // and waits until it has ended
	}
	m.eventuallyWaiting(0)
	text, err := os.ReadFile(m.path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	if n := metrics(t, text)["latchfs_requests_total kind=interrupt"]; n > 2*rounds {
		t.Errorf("%.0f INTERRUPTs of %d calls", n, rounds)
	} else {
		t.Logf("%.0f INTERRUPTs of %d calls", n, rounds)
	}
}
