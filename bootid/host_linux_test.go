package bootid

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newHost(t *testing.T) *Host {
	t.Helper()
	h := NewHost()
	t.Cleanup(h.Close)
	return h
}

func start(t *testing.T, words ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	run(t, cmd)
	return cmd
}

// run starts a command, which ends with the test at the latest.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
}

func TestReadBoot(t *testing.T) {
	b := ReadBoot()
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil || b.ID != strings.TrimSpace(string(text)) {
		t.Errorf("%+v, the kernel says %q %v", b, text, err)
	}
	if b.Time.IsZero() || b.Time.After(time.Now()) {
		t.Errorf("boot time %v", b.Time)
	}
}

func TestProcessIsItself(t *testing.T) {
	h := newHost(t)
	p, err := h.Process(os.Getpid())
	if err != nil || p.PID != os.Getpid() || p.UID != uint32(os.Geteuid()) || p.BootID != h.Boot().ID || p.StartTime == 0 || p.PIDNamespace == 0 || !p.Same(p) {
		t.Errorf("%+v %v", p, err)
	}
	if age := time.Since(h.StartedAt(p)); age < 0 || age > time.Hour {
		t.Errorf("started %v ago", age)
	}
	parent, err := h.Parent(p)
	if err != nil || parent.PID != os.Getppid() {
		t.Errorf("parent %+v %v", parent, err)
	}
	other := p
	other.StartTime++
	if p.Same(other) || (Process{}).Same(Process{}) {
		t.Error("the same in spite of another start time")
	}
}

// TestIdentifyThread: any thread of a process is that process.
func TestIdentifyThread(t *testing.T) {
	h := newHost(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for range 3 { // from /proc, then from the cache
		p, err := h.Identify(unix.Gettid())
		if err != nil || p.PID != os.Getpid() {
			t.Errorf("%+v %v", p, err)
		}
	}
	if _, err := h.Identify(0); !errors.Is(err, ErrNoProcess) {
		t.Errorf("thread 0: %v", err)
	}
	if _, err := h.Process(unix.Gettid()); unix.Gettid() != os.Getpid() && !errors.Is(err, ErrNoProcess) {
		t.Errorf("a thread was taken for a process: %v", err)
	}
}

// TestReusedThreadID: a reused thread id identifies the new process at once, cached or not.
func TestReusedThreadID(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("choosing the next pid takes root")
	}
	h := newHost(t)
	for range 20 {
		first := start(t, "sleep", "1000")
		before, err := h.Identify(first.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		_ = first.Process.Kill()
		_ = first.Wait()
		if p, err := h.Identify(first.Process.Pid); !errors.Is(err, ErrNoProcess) {
			t.Fatalf("the dead is %+v %v", p, err)
		}
		time.Sleep(20 * time.Millisecond) // start times count ticks of 10 ms
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(first.Process.Pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		second := start(t, "cat", "/dev/zero")
		if second.Process.Pid != first.Process.Pid {
			continue // somebody else was given it
		}
		after, err := h.Identify(second.Process.Pid)
		if err != nil || after.Same(before) {
			t.Fatalf("was %+v, is %+v %v", before, after, err)
		}
		return
	}
	t.Fatal("no pid was ever used again")
}

func TestWatchTellsHowItEnded(t *testing.T) {
	h := newHost(t)
	t.Logf("how the reaped ended is known from %q", h.ExitSource())
	for _, c := range []struct {
		script string
		exit   Exit
	}{{"read x; exit 0", ExitSuccess}, {"read x; exit 3", ExitFailure}, {"read x; kill -9 $$", ExitSignal}, {"read x; kill -TERM $$", ExitSignal}} {
		cmd := exec.Command("sh", "-c", c.script)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := h.Process(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		watch, err := h.Watch(p, func() { close(ended) })
		if err != nil {
			t.Fatal(err)
		}
		if watch.Ended() || watch.Exit() != ExitUnknown {
			t.Errorf("%s: has ended before its end", c.script)
		}
		in.Close()
		<-ended
		// A zombie: not yet reaped by us.
		if !watch.Ended() || watch.Exit() != c.exit {
			t.Errorf("%s: ended %v, exit %v", c.script, watch.Ended(), watch.Exit())
		}
		if _, err := h.Process(p.PID); !errors.Is(err, ErrNoProcess) {
			t.Errorf("a zombie runs: %v", err)
		}
		_ = cmd.Wait()
		if exit := watch.Exit(); exit != c.exit && (exit != ExitUnknown || h.ExitSource() != "") {
			t.Errorf("%s: reaped, exit %v", c.script, exit)
		}
		watch.Stop()
		if _, err := h.Watch(p, func() {}); !errors.Is(err, ErrNoProcess) {
			t.Errorf("watching the dead: %v", err)
		}
	}
}

// TestNamespacePID finds a process by its number in a pid namespace of its own.
func TestNamespacePID(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a pid namespace takes root")
	}
	h := newHost(t)
	outer := start(t, "unshare", "--pid", "--fork", "--kill-child", "sh", "-c", "sleep 1000 & wait")
	var inner Process
	for deadline := time.Now().Add(10 * time.Second); inner.PID == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the process in the namespace did not appear")
		}
		_ = h.eachProcess(func(pid int) bool {
			if p, err := h.Process(pid); err == nil && p.Command == "sleep" && p.NSPID == 2 {
				inner = p
			}
			return true
		})
	}
	if found, err := h.InNamespace(2, inner); err != nil || !found.Same(inner) {
		t.Errorf("found %+v %v, want %+v", found, err, inner)
	}
	if found, err := h.InNamespace(1, inner); err != nil || found.Command != "sh" {
		t.Errorf("found %+v %v", found, err)
	}
	if !h.InOtherNamespace(2, time.Now()) {
		t.Error("2 is a number in another namespace")
	}
	_ = outer
}

func TestUsersOf(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	cmd := exec.Command("sleep", "1000")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if users := h.UsersOf(dir); len(users) != 1 || users[0].PID != cmd.Process.Pid {
		t.Errorf("%+v", users)
	}
}

func BenchmarkIdentify(b *testing.B) {
	h := NewHost()
	defer h.Close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for b.Loop() {
		if _, err := h.Identify(unix.Gettid()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAncestors: the chain of ancestors ends before a manager.
func TestAncestors(t *testing.T) {
	h := newHost(t)
	self, err := h.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	shell, child := startFamily(t, h)
	chain := h.Ancestors(child)
	if len(chain) < 2 || !chain[0].Same(shell) || !chain[1].Same(self) {
		t.Fatalf("ancestors of %v: %v", child, chain)
	}
	for _, a := range chain {
		if a.PID == 1 {
			t.Errorf("process 1 is among them: %v", chain)
		}
	}
	if other := h.Ancestors(Process{PID: child.PID, StartTime: child.StartTime + 1}); other != nil {
		t.Errorf("ancestors of a process that is not there: %v", other)
	}
}

// TestSubreaperIsNoAncestor: it has taken an orphan in.
func TestSubreaperIsNoAncestor(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip(err)
	}
	h := newHost(t)
	// A python process becomes a subreaper; its grandchild is orphaned in a session of its own.
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip(err)
	}
	cmd := start(t, python, "-c", `
import ctypes, os, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "1000"])
    os._exit(0)
os.wait()
time.sleep(1000)`)
	reaper, err := h.Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	var orphan Process
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		orphan = childOf(t, h, reaper)
		if stat, err := readStat(orphan.PID); err == nil && stat.command == "sleep" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no orphan")
		}
	}
	defer unix.Kill(orphan.PID, unix.SIGKILL)
	if chain := h.Ancestors(orphan); len(chain) != 0 {
		t.Errorf("ancestors of an orphan: %v", chain)
	}
}

// startFamily starts a shell that waits for a child.
func startFamily(t *testing.T, h *Host) (shell, child Process) {
	t.Helper()
	cmd := start(t, "sh", "-c", "sleep 1000; true")
	shell, err := h.Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	child = childOf(t, h, shell)
	t.Cleanup(func() { _ = unix.Kill(child.PID, unix.SIGKILL) })
	return shell, child
}

// childOf waits for a child of p.
func childOf(t *testing.T, h *Host, p Process) (child Process) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%v has no child", p), func() bool {
		_ = h.eachProcess(func(pid int) bool {
			if stat, err := readStat(pid); err == nil && stat.ppid == p.PID {
				child, _ = h.Process(pid)
			}
			return !child.Known()
		})
		return child.Known()
	})
	return child
}

func TestExiting(t *testing.T) {
	h := newHost(t)
	cmd := start(t, "sleep", "1000")
	p, err := h.Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if h.Exiting(p) {
		t.Error("a running process is exiting")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if !h.Exiting(p) {
		t.Error("a process that has ended is not exiting")
	}
}

// TestHidden runs itself as another user, with a /proc that hides the processes of other users.
func TestHidden(t *testing.T) {
	const variable = "LATCHFS_TEST_HIDDEN"
	if os.Getenv(variable) != "" {
		h := NewHost()
		defer h.Close()
		if _, err := h.Process(1); !errors.Is(err, ErrHidden) {
			t.Errorf("process 1: %v", err)
		}
		if _, err := h.Process(1 << 21); !errors.Is(err, ErrNoProcess) {
			t.Errorf("a process that is not there: %v", err)
		}
		if p, err := h.Process(os.Getpid()); err != nil || p.PID != os.Getpid() {
			t.Errorf("itself: %v %v", p, err)
		}
		if hasEnded(Process{PID: 1, StartTime: 1}) {
			t.Error("a hidden process has ended")
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace takes root")
	}
	for _, program := range []string{"unshare", "setpriv"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "hidden.test")
	text, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(program, text, 0o755)
	}
	for dir := filepath.Dir(program); err == nil && dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", `mount -t proc -o hidepid=2 proc /proc && cd / &&
		exec setpriv --reuid=65534 --regid=65534 --clear-groups "$0" -test.run '^TestHidden$' -test.v`, program)
	cmd.Env = append(os.Environ(), variable+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestHidden") {
		t.Errorf("%v: %s", err, out)
	}
}
