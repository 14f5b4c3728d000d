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
	"regexp"
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
		if err == nil && strings.TrimSpace(string(comm)) != "latchfs-descriptorKeeper" && !ended(pid) { // a notifier has ended with its server
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
	return m.endServer(unix.SIGKILL)
}

// endServer ends the server there is by a signal, and says which that was.
func (m *mount) endServer(by unix.Signal) int {
	m.t.Helper()
	pid := 0
	eventually(m.t, "there is a server", func() bool { pid = m.server(); return pid != 0 })
	end(m.t, pid, by)
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

// killerVariable has the server of every mount killed again and again.
const killerVariable = "LATCHFS_TEST_KILLER"

// eventuallyServed waits until there is a server that answers.
func (m *mount) eventuallyServed() {
	m.t.Helper()
	eventually(m.t, "the mount is served", func() bool { return exists(m.path(".latchfs/status")) })
}

// TestProgramsWhileTheServerIsKilled: the programs' tests pass.
func TestProgramsWhileTheServerIsKilled(t *testing.T) {
	if raceEnabled {
		t.Skip("it takes minutes, and TestServerKilled kills a server that the race detector watches: make test does it")
	}
	needFUSE(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "^(TestPrograms|TestOpenClaw.*)$", "-test.timeout", "10m", "-test.v")
	cmd.Env = append(os.Environ(), killerVariable+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passed := bytes.Count(out, []byte("--- PASS: TestPrograms/")); passed < 10 {
		t.Errorf("%d programs only", passed)
	}
	kills := 0
	for _, match := range regexp.MustCompile(`servers killed: (\d+)`).FindAllSubmatch(out, -1) {
		n, _ := strconv.Atoi(string(match[1]))
		kills += n
	}
	t.Logf("servers were killed %d times", kills)
	if kills < 10 {
		t.Error("hardly ever")
	}
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

// startLoad starts the workers in a directory of the mount.
func startLoad(t *testing.T, dir string) *load {
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
		cmd.Env = append(os.Environ(), helperVariable+"=worker", "WORKER_KIND="+kind, "WORKER_DIR="+dir, "WORKER_OUTSIDE="+outside)
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
	l := startLoad(t, m.dir)
	stop := make(chan struct{})
	kills := m.killAgainAndAgain(stop, 50*time.Millisecond, 500*time.Millisecond)
	for deadline := time.Now().Add(5 * time.Duration(least) * time.Second); len(m.logged("the server has died")) < least; time.Sleep(time.Second) {
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
	l := startLoad(t, m.dir)
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

// TestServerPanics: a server that ends by a fault of its own is replaced too, and why it ended is
// logged. (SIGQUIT ends a Go program as a panic does.)
func TestServerPanics(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for range 3 {
		m.endServer(unix.SIGQUIT)
		if err := os.WriteFile(m.path("file"), []byte("text"), 0o644); err != nil {
			t.Error(err)
		}
	}
	for _, entry := range m.logged("the server has died") {
		if entry["reason"] != "exit status 2" {
			t.Errorf("%v", entry)
		}
	}
	m.leftNothing()
}

// copyProgram puts a latchfs at a path of its own, by renaming it there as a package manager does.
func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to+".new", text, 0o755)
	}
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestUpgradeToWhatCannot: a file that is no program leaves all as it is. A latchfs of another format
// mounts anew, and says so; the locks of who lives are held.
func TestUpgradeToWhatCannot(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "latchfs")
	copyProgram(t, latchfs, program)
	m := (&mount{t: t, program: program}).over(t.TempDir())
	holder := newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	file, err := os.Create(m.path("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, filepath.Join(dir, "text"), program)
	if err := m.process.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is said", func() bool { return len(m.logged("no server could be started")) > 0 })
	m.eventuallyServed()
	if _, err := file.WriteString("text"); err != nil {
		t.Error(err)
	}
	// Should it die, another of the version before is started, though its file is gone.
	m.killServer()
	if err := unix.Fstat(int(file.Fd()), &unix.Stat_t{}); err != nil {
		t.Error(err)
	}

	other := filepath.Join(dir, "other")
	if err := build(other, "-tags", "formattest"); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, other, program)
	if out, err := exec.Command(latchfs, "upgrade", m.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(m.logged("cannot read the tables of the running one: mounting anew")) != 1 {
		t.Error("it was not said that it is mounted anew")
	}
	if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.cmd.Process.Pid {
		t.Errorf("%+v", l)
	}
	// The kernel may still have its attributes cached.
	eventually(t, "a file that was open fails", func() bool { return unix.Fstat(int(file.Fd()), &unix.Stat_t{}) == unix.ENOTCONN })
}

// TestIdle: what must not die holds little memory, and nobody does anything while the mount is idle.
func TestIdle(t *testing.T) {
	m := mountOver(t, t.TempDir())
	m.killServer()
	m.eventuallyServed()
	descriptorKeeper := 0
	for _, pid := range append(children(m.server()), children(m.process.Process.Pid)...) {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(comm) == "latchfs-descriptorKeeper\n" && !ended(pid) {
			descriptorKeeper = pid
		}
	}
	if descriptorKeeper == 0 {
		t.Fatal("there is no descriptorKeeper")
	}
	switches := func(pid int) (n int) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, task := range tasks {
			n += statusNumber(t, task, "voluntary_ctxt_switches:")
		}
		return n
	}
	for _, p := range []struct {
		name string
		pid  int
		most int // MiB resident
	}{{"keeper", m.process.Process.Pid, 16}, {"descriptorKeeper", descriptorKeeper, 10}, {"server", m.server(), 30}} {
		name, pid := p.name, p.pid
		resident := statusNumber(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		t.Logf("%s: %d KiB resident", name, resident)
		if resident > p.most<<10 && !raceEnabled {
			t.Errorf("the %s has %d KiB", name, resident)
		}
		// What it still had to do is over in one of these.
		idle := false
		for range 5 {
			before := switches(pid)
			time.Sleep(time.Second)
			idle = idle || switches(pid) == before
		}
		if !idle {
			t.Errorf("the %s was never idle for a second", name)
		}
	}
}

// statusNumber is a number in a file like proc_pid_status(5).
func statusNumber(t *testing.T, path, field string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+field)
	n := 0
	if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
		t.Fatalf("%s: no %s", path, field)
	}
	return n
}
