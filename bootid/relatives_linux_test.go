package bootid

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startIn starts a process with attributes of its own.
func startIn(t *testing.T, attributes *syscall.SysProcAttr, words ...string) (*exec.Cmd, Process) {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	cmd.SysProcAttr = attributes
	run(t, cmd)
	p, err := newHost(t).Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, p
}

func TestGroupAndSession(t *testing.T) {
	h := newHost(t)
	self, err := h.Process(os.Getpid())
	if err != nil || self.Group != unix.Getpgrp() || self.Manager {
		t.Errorf("%+v %v", self, err)
	}
	_, p := startIn(t, &syscall.SysProcAttr{Setsid: true}, "sleep", "1000")
	if p.Group != p.PID || p.Session != p.PID {
		t.Errorf("in a session of its own: %+v", p)
	}
	shell, child := startFamily(t, h)
	if chain := h.Ancestors(child); len(chain) < 1 || chain[0] != shell {
		t.Errorf("%+v is not the parent %+v", chain, shell)
	}
}

// TestTerminalSession: a session with a controlling terminal is never reported.
func TestTerminalSession(t *testing.T) {
	if _, err := exec.LookPath("script"); err != nil {
		t.Skip(err)
	}
	_, outer := startIn(t, nil, "script", "-qc", "exec sleep 1000", "/dev/null")
	h := newHost(t)
	var p Process
	waitFor(t, "no program is on the terminal", func() bool {
		p = childOf(t, h, outer)
		return p.Command == "sleep"
	})
	if p.Session != 0 || p.Group != p.PID {
		t.Errorf("on a terminal: %+v", p)
	}
}

func TestManagers(t *testing.T) {
	h := newHost(t)
	if p, err := h.Process(1); err != nil || !p.Manager {
		t.Errorf("%+v %v", p, err)
	}
	if p, err := h.Process(2); err == nil && p.Command == "kthreadd" && !p.Manager {
		t.Errorf("a kernel thread: %+v", p)
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(t.TempDir(), "sshd")
	if err := os.Symlink(sleep, named); err != nil {
		t.Fatal(err)
	}
	if _, p := startIn(t, nil, named, "1000"); p.Command != "sshd" || !p.Manager {
		t.Errorf("%+v", p)
	}
}

func TestRelatives(t *testing.T) {
	if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(os.Getpid()) + "/children"); err != nil {
		t.Skip(err)
	}
	h := newHost(t)
	shell, child := startFamily(t, h)
	if parent, children := h.Relatives(shell); parent != os.Getpid() || !slices.Equal(children, []int{child.PID}) {
		t.Errorf("parent %d, children %d, not %d and %d", parent, children, os.Getpid(), child.PID)
	}
	shell.StartTime--
	if parent, children := h.Relatives(shell); parent != 0 || children != nil {
		t.Errorf("relatives of a process that is not there: %d %d", parent, children)
	}
}

func TestOpenedBy(t *testing.T) {
	h := newHost(t)
	path := filepath.Join(t.TempDir(), "a file")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.ExtraFiles = []*os.File{file}
	run(t, cmd)
	var pids []int
	for _, p := range h.OpenedBy(path) {
		pids = append(pids, p.PID)
	}
	if len(pids) != 2 || !slices.Contains(pids, os.Getpid()) || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("open in %v", pids)
	}
}

// waitFor waits until is returns true. If that takes too long the test fails, and says missing.
func waitFor(t *testing.T, missing string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(missing)
		}
	}
}

// TestGroupRuns: what a process left in its group or session is found, and what has got the number since
// is not taken for it.
func TestGroupRuns(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip(err)
	}
	h := newHost(t)
	for _, c := range []struct {
		name, script string
		attributes   *syscall.SysProcAttr
	}{
		{"its group", "sleep 1000 & echo $!; wait", &syscall.SysProcAttr{Setpgid: true}},
		{"its session", "set -m; sleep 1000 & echo $!; wait", &syscall.SysProcAttr{Setsid: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command("bash", "-c", c.script)
			cmd.SysProcAttr = c.attributes
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			p, err := h.Process(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			var line [16]byte
			n, err := out.Read(line[:])
			left, _ := strconv.Atoi(strings.TrimSpace(string(line[:n])))
			if err != nil || left <= 0 {
				t.Fatalf("%q %v", line[:n], err)
			}
			_ = cmd.Process.Kill()
			_, _ = cmd.Process.Wait()
			t.Cleanup(func() { _ = unix.Kill(left, unix.SIGKILL) })
			if p.Session == p.PID {
				group := p
				group.Session = 0
				if h.GroupRuns(group) {
					t.Error("a process of the session is taken for one of the group")
				}
			} else {
				p.Session = 0 // the session of the test runs
			}
			if !h.GroupRuns(p) {
				t.Errorf("%+v: %d runs", p, left)
			}
			_ = unix.Kill(left, unix.SIGKILL)
			waitFor(t, "its group runs on", func() bool { return !h.GroupRuns(p) })
		})
	}
}

func TestGroupRunsNotByReuse(t *testing.T) {
	h := newHost(t)
	_, later := startIn(t, &syscall.SysProcAttr{Setsid: true}, "sleep", "1000")
	before := Process{BootID: later.BootID, PID: later.PID + 1, StartTime: later.StartTime - 1, Group: later.PID, Session: later.PID}
	if h.GroupRuns(before) {
		t.Error("a number that is used again is taken for the group")
	}
	before.StartTime = later.StartTime
	if !h.GroupRuns(before) {
		t.Error("a process that started in the same tick as its group is taken for an older one")
	}
	// A zombie does not run.
	cmd, p := startIn(t, &syscall.SysProcAttr{Setsid: true}, "sleep", "1000")
	_ = cmd.Process.Kill()
	waitFor(t, "a zombie runs", func() bool { return !h.GroupRuns(p) })
	if !h.GroupRuns(Process{PID: p.PID, StartTime: p.StartTime}) {
		t.Error("a group that is not known is known to have ended")
	}
}

func TestSameHost(t *testing.T) {
	h := newHost(t)
	_, same := startIn(t, nil, "sleep", "1000")
	if !h.SameHost(same) {
		t.Error("on another host")
	}
	if os.Geteuid() != 0 {
		t.Skip("a UTS namespace takes root")
	}
	cmd, other := startIn(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS}, "sleep", "1000")
	if h.SameHost(other) {
		t.Error("on this host")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if h.SameHost(other) {
		t.Error("of a process that has ended it is not known")
	}
}
