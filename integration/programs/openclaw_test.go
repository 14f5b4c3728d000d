//go:build linux

package programs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchfs/integration/harness"
)

// A gateway is a process that takes OpenClaw's own session write lock.
type gateway struct {
	t       *testing.T
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Reader
}

// newGateway starts a gateway. Its arguments contain the word openclaw or not. OpenClaw recognizes its own
// processes by that word.
func newGateway(t *testing.T, saysOpenClaw bool) *gateway {
	t.Helper()
	node, driver := harness.Node(t), harness.NodePath("openclaw.mjs")
	if !saysOpenClaw {
		text, err := os.ReadFile(driver)
		if err != nil {
			t.Fatal(err)
		}
		driver = filepath.Join(t.TempDir(), "other.mjs")
		if err := os.WriteFile(driver, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	g := &gateway{t: t, cmd: exec.Command(node, driver)}
	g.cmd.Dir = "/" // the path of the directory does not contain openclaw
	g.cmd.Env = append(os.Environ(), "OPENCLAW_MODULES="+harness.NodePath("node_modules"))
	g.cmd.Stderr = os.Stderr
	var err error
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.answers = bufio.NewReader(out)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.kill)
	return g
}

func (g *gateway) ask(format string, args ...any) {
	g.t.Helper()
	if _, err := fmt.Fprintf(g.in, format+"\n", args...); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) answer() string {
	g.t.Helper()
	line, err := g.answers.ReadString('\n')
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

// acquire tries to take the lock of a session, for at most timeout.
func (g *gateway) acquire(session string, timeout, maxHold time.Duration) string {
	g.t.Helper()
	g.ask("acquire %s %d %d", session, timeout.Milliseconds(), maxHold.Milliseconds())
	return g.answer()
}

func (g *gateway) release() {
	g.t.Helper()
	g.ask("release")
	if answer := g.answer(); answer != "ok" {
		g.t.Fatalf("release: %s", answer)
	}
}

func (g *gateway) kill() {
	if g.cmd.ProcessState == nil {
		_ = g.cmd.Process.Kill()
		_ = g.cmd.Wait()
	}
}

const (
	patient = 20 * time.Second
	longer  = 10 * time.Minute
)

func session(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "s.jsonl")
	if err := os.WriteFile(path, []byte("{}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustAcquire(t *testing.T, g *gateway, session string, timeout, maxHold time.Duration) {
	t.Helper()
	if answer := g.acquire(session, timeout, maxHold); answer != "ok" {
		t.Fatalf("process %d: %s", g.cmd.Process.Pid, answer)
	}
}

// TestOpenClawAlternates lets two gateways take turns.
func TestOpenClawAlternates(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	s := session(t, m.Dir)
	holder, waiter := newGateway(t, true), newGateway(t, true)
	mustAcquire(t, holder, s, patient, longer)
	for range 5 {
		if l := m.Locks()["s.jsonl.lock"]; l.Verdict != "live" || l.Holder.PID != holder.cmd.Process.Pid {
			t.Errorf("listed as %+v", l)
		}
		waiter.ask("acquire %s %d %d", s, patient.Milliseconds(), longer.Milliseconds())
		holder.release()
		if answer := waiter.answer(); answer != "ok" {
			t.Fatal(answer)
		}
		holder, waiter = waiter, holder
	}
	holder.release()
	if harness.Exists(s + ".lock") {
		t.Error("the lock file is there after its release")
	}
}

// TestOpenClawSucceedsTheKilled kills a holder. The next attempt finds the lock free.
func TestOpenClawSucceedsTheKilled(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	s := session(t, m.Dir)
	for range 3 {
		holder, next := newGateway(t, true), newGateway(t, true)
		mustAcquire(t, holder, s, patient, longer)
		holder.kill()
		mustAcquire(t, next, s, time.Millisecond, longer) // one attempt
		next.release()
	}
}

// TestOpenClawCannotStealALiveLock checks that a contender does not take a live lock, neither if the holder's
// arguments do not contain openclaw, nor once the holder's maxHoldMs is over. On a plain directory it takes both.
func TestOpenClawCannotStealALiveLock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		says      bool
		heldFor   time.Duration
		holdLimit time.Duration
	}{
		{"holder does not say openclaw", false, 0, longer},
		{"maxHoldMs is over", true, 1500 * time.Millisecond, time.Second},
	} {
		try := func(t *testing.T, dir string) (stolen bool, answer string) {
			s := session(t, dir)
			holder, contender := newGateway(t, c.says), newGateway(t, true)
			mustAcquire(t, holder, s, patient, c.holdLimit)
			before, err := os.ReadFile(s + ".lock")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.heldFor) // OpenClaw judges by the clock
			answer = contender.acquire(s, 2*time.Second, longer)
			after, err := os.ReadFile(s + ".lock")
			if err != nil {
				t.Fatal(err)
			}
			if answer == "ok" == (string(before) == string(after)) {
				t.Errorf("answered %s, the payload was %s and is %s", answer, before, after)
			}
			return answer == "ok", answer
		}
		t.Run(c.name+"/mount", func(t *testing.T) {
			m := harness.MountOver(t, t.TempDir())
			stolen, answer := try(t, m.Dir)
			if stolen {
				t.Error("a contender took the lock of a live holder")
			}
			if !strings.Contains(answer, "file_lock_stale") {
				t.Errorf("the contender was told %s", answer)
			}
		})
		t.Run(c.name+"/plain directory", func(t *testing.T) {
			harness.NeedFUSE(t)
			if stolen, answer := try(t, t.TempDir()); !stolen {
				t.Errorf("the control run shows nothing: %s", answer)
			}
		})
	}
}
