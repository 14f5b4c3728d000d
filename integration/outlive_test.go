//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// server is the process that answers for the mount now, 0 while there is none.
func (m *mount) server() int {
	for _, pid := range children(m.process.Process.Pid) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) != "latchfs-anchor" {
			return pid
		}
	}
	return 0
}

func children(pid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, child)
		}
	}
	return pids
}

// killServer kills the server there is, and says which that was.
func (m *mount) killServer() int {
	m.t.Helper()
	pid := 0
	eventually(m.t, "there is a server", func() bool { pid = m.server(); return pid != 0 })
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		m.t.Fatal(err)
	}
	return pid
}

// killers kill the server again and again until stop is closed.
func (m *mount) killAgainAndAgain(stop <-chan struct{}, least, most time.Duration) (kills func() int) {
	done, count := make(chan struct{}), 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(least + rand.N(most-least)):
			}
			if pid := m.server(); pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil {
				count++
			}
		}
	}()
	return func() int { <-done; return count }
}

// number is an environment variable that is a number, or what it is without.
func number(t *testing.T, variable string, without int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return without
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// load is a set of workers.
type load struct {
	t       *testing.T
	names   []string
	cmds    []*exec.Cmd
	inputs  []io.Closer
	outputs []*bytes.Buffer
}

var workerKinds = []string{
	"lock1", "lock2", "contend1", "contend2", "contend3", "payload", "append1", "append2", "replace", "tree", "list",
	"mmap", "unlinked", "attr", "names", "read", "git", "sqlite",
}

// startLoad starts the workers in the mount.
func startLoad(t *testing.T, m *mount) *load {
	t.Helper()
	needProgram(t, "git")
	needProgram(t, "sqlite3")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, names: workerKinds}
	outside := t.TempDir()
	for _, kind := range l.names {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), helperVariable+"=worker", "WORKER_KIND="+kind, "WORKER_DIR="+m.dir, "WORKER_OUTSIDE="+outside)
		out := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		l.cmds, l.inputs, l.outputs = append(l.cmds, cmd), append(l.inputs, in), append(l.outputs, out)
	}
	return l
}

// end stops the workers, none of which may have seen anything wrong, and tells of the longest time
// that a call took.
func (l *load) end() {
	l.t.Helper()
	for _, in := range l.inputs {
		in.Close()
	}
	var stalls []time.Duration
	for i, cmd := range l.cmds {
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("%s: %v: %s", l.names[i], err, l.outputs[i])
			continue
		}
		var rounds, worst int
		if _, err := fmt.Sscan(l.outputs[i].String(), &rounds, &worst); err != nil || rounds == 0 {
			l.t.Errorf("%s: %q", l.names[i], l.outputs[i])
			continue
		}
		l.t.Logf("%-9s %7d rounds, longest call %v", l.names[i], rounds, time.Duration(worst)*time.Microsecond)
		if l.names[i] != "git" && l.names[i] != "sqlite" { // there it is a whole command
			stalls = append(stalls, time.Duration(worst)*time.Microsecond)
		}
	}
	if slices.Sort(stalls); len(stalls) > 0 {
		l.t.Logf("longest stall of a call: median over the workers %v, worst %v", stalls[len(stalls)/2], stalls[len(stalls)-1])
	}
}

// TestServerKilled: no program sees that the server is killed again and again. OUTLIVE_KILLS is how
// often.
func TestServerKilled(t *testing.T) {
	least := number(t, "OUTLIVE_KILLS", 60)
	m := mountOver(t, t.TempDir())
	l := startLoad(t, m)
	stop := make(chan struct{})
	kills := m.killAgainAndAgain(stop, 50*time.Millisecond, 500*time.Millisecond)
	for deadline := time.Now().Add(time.Duration(least) * time.Second); len(m.logged("the server has died")) < least; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("the server was not killed often enough")
		}
	}
	close(stop)
	t.Logf("%d kills", kills())
	l.end()
	m.leftNothing()
}

// leftNothing checks that the locks of processes that have ended are gone, and that the mount still
// has its first connection.
func (m *mount) leftNothing() {
	m.t.Helper()
	eventually(m.t, "nothing is locked", func() bool { return len(m.locks()) == 0 })
	if len(m.logged("mounting anew")) != 0 {
		m.t.Error("it was mounted anew")
	}
}

// TestUpgrade: nor that it is replaced.
func TestUpgrade(t *testing.T) {
	upgrades := number(t, "OUTLIVE_UPGRADES", 20)
	m := mountOver(t, t.TempDir())
	l := startLoad(t, m)
	for range upgrades {
		if out, err := exec.Command(latchfs, "upgrade", m.dir).CombinedOutput(); err != nil {
			t.Fatalf("upgrade: %v: %s", err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.end()
	m.leftNothing()
	if handed := len(m.logged("making way")); handed != upgrades {
		t.Errorf("handed over %d times, not %d", handed, upgrades)
	}
}
