package bootid

import (
	"errors"
	"os"
	"os/exec"
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
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
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

// TestReusedThreadID: a number that is used again is the new process at once, cached or not.
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
	for _, c := range []struct {
		script string
		exit   Exit
	}{{"read x; exit 0", ExitNormal}, {"read x; exit 3", ExitNormal}, {"read x; kill -9 $$", ExitSignal}, {"read x; kill -TERM $$", ExitSignal}} {
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
		if exit := watch.Exit(); exit != c.exit && exit != ExitUnknown { // unknown before Linux 6.15
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
