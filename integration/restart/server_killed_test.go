//go:build linux

package restart

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestServerKilled checks that no program notices that the server is killed repeatedly. OUTLIVE_KILLS is the
// number of kills.
func TestServerKilled(t *testing.T) {
	least := harness.EnvNumber(t, "OUTLIVE_KILLS", 60)
	m := harness.MountOver(t, t.TempDir())
	l := startLoad(t, m.Dir)
	stop := make(chan struct{})
	kills := m.KillServerRepeatedly(stop, 50*time.Millisecond, 500*time.Millisecond)
	for deadline := time.Now().Add(5 * time.Duration(least) * time.Second); len(m.Logged("the server has died")) < least; time.Sleep(time.Second) {
		if time.Now().After(deadline) {
			t.Fatal("the server was not killed often enough")
		}
	}
	close(stop)
	t.Logf("%d kills", kills())
	l.end()
	m.CheckNothingLeft()
}

// TestUpgrade checks that no program notices that the server is replaced. OUTLIVE_UPGRADES is the number of
// upgrades.
func TestUpgrade(t *testing.T) {
	upgrades := harness.EnvNumber(t, "OUTLIVE_UPGRADES", 20)
	m := harness.MountOver(t, t.TempDir())
	l := startLoad(t, m.Dir)
	for range upgrades {
		if out, err := exec.Command(harness.Latchfs, "upgrade", m.Dir).CombinedOutput(); err != nil {
			t.Fatalf("upgrade: %v: %s", err, out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	l.end()
	m.CheckNothingLeft()
	if handed := len(m.Logged("making way")); handed != upgrades {
		t.Errorf("handed over %d times, not %d", handed, upgrades)
	}
}

// TestServerPanics checks that a server that ends by a fault of its own is replaced too, and that the reason is
// logged. (SIGQUIT ends a Go program as a panic does.)
func TestServerPanics(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for range 3 {
		m.EndServer(unix.SIGQUIT)
		if err := os.WriteFile(m.Path("file"), []byte("text"), 0o644); err != nil {
			t.Error(err)
		}
	}
	for _, entry := range m.Logged("the server has died") {
		if entry["reason"] != "exit status 2" {
			t.Errorf("%v", entry)
		}
	}
	m.CheckNothingLeft()
}

// copyProgram puts a copy of a program at a path, by renaming, as a package manager does.
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

// TestUpgradeToWhatCannot upgrades to a file that is no program, which leaves everything as it is, and to a
// latchfs with another format of its tables, which mounts anew and logs that. Locks of live processes stay held.
func TestUpgradeToWhatCannot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "latchfs")
	copyProgram(t, harness.Latchfs, program)
	m := (&harness.Mount{T: t, Program: program}).Over(t.TempDir())
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	file, err := os.Create(m.Path("open"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, filepath.Join(dir, "text"), program)
	if err := m.Keeper.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the failed upgrade is logged", func() bool { return len(m.Logged("failed to start a server")) > 0 })
	m.WaitUntilServed()
	if _, err := file.WriteString("text"); err != nil {
		t.Error(err)
	}
	// If the server dies now, another server of the old version is started, although its file is gone.
	m.KillServer()
	if err := unix.Fstat(int(file.Fd()), &unix.Stat_t{}); err != nil {
		t.Error(err)
	}

	other := filepath.Join(dir, "other")
	if err := harness.Build(other, "-tags", "formattest"); err != nil {
		t.Fatal(err)
	}
	copyProgram(t, other, program)
	if out, err := exec.Command(harness.Latchfs, "upgrade", m.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if len(m.Logged("cannot read the tables of the running version; mounting again")) != 1 {
		t.Error("the new mount is not logged")
	}
	if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.Cmd.Process.Pid {
		t.Errorf("%+v", l)
	}
	// The kernel may still have its attributes cached.
	harness.Eventually(t, "a file that was open fails", func() bool { return unix.Fstat(int(file.Fd()), &unix.Stat_t{}) == unix.ENOTCONN })
}

// TestIdle checks that keeper, server and descriptor keeper hold little memory, and that none of them runs while
// the mount is idle.
func TestIdle(t *testing.T) {
	m := harness.MountOver(t, t.TempDir())
	m.KillServer()
	m.WaitUntilServed()
	descriptorKeeper := 0
	for _, pid := range append(harness.Children(m.Server()), harness.Children(m.Keeper.Process.Pid)...) {
		if comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(comm)) == harness.DescriptorKeeperName && !harness.HasEnded(pid) {
			descriptorKeeper = pid
		}
	}
	if descriptorKeeper == 0 {
		t.Fatal("there is no descriptor keeper")
	}
	switches := func(pid int) (n int) {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, task := range tasks {
			n += harness.StatusNumber(t, task, "voluntary_ctxt_switches:")
		}
		return n
	}
	for _, p := range []struct {
		name string
		pid  int
		most int // MiB resident
	}{{"keeper", m.Keeper.Process.Pid, 16}, {"descriptor keeper", descriptorKeeper, 10}, {"server", m.Server(), 30}} {
		name, pid := p.name, p.pid
		resident := harness.StatusNumber(t, fmt.Sprintf("/proc/%d/status", pid), "VmRSS:")
		t.Logf("%s: %d KiB resident", name, resident)
		if resident > p.most<<10 && !harness.RaceEnabled {
			t.Errorf("the %s has %d KiB", name, resident)
		}
		// Remaining work of the process is done within one of these seconds.
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
