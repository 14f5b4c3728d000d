//go:build linux

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// latchfs is the binary under test, built by TestMain with the race detector if the tests
// have it. Tests with other users and namespaces run it as well, so it is readable
// to all.
var Latchfs string

// Main is the TestMain of every package of integration tests. It builds latchfs and runs the tests. In a
// helper process it runs the helper instead: the locker, or one of the package's own helpers.
func Main(m *testing.M, helpers map[string]func()) {
	if name := os.Getenv(HelperVariable); name != "" {
		helper := helpers[name]
		if name == "locker" {
			helper = locker
		}
		if helper == nil {
			fmt.Fprintln(os.Stderr, "no such helper:", name)
			os.Exit(2)
		}
		helper()
		os.Exit(0)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "latchfs-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	Latchfs = filepath.Join(dir, "latchfs")
	if err := Build(Latchfs); err != nil {
		fmt.Fprintln(os.Stderr, "build latchfs:", err)
		return 1
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// build builds latchfs, with the race detector if the tests have it.
func Build(program string, args ...string) error {
	args = append([]string{"build", "-o", program}, args...)
	if RaceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "latchfs/cmd/latchfs")...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// needFUSE skips a test where the kernel or the user cannot mount, but not in CI.
func NeedFUSE(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "mounting without fusermount3 takes root"
	} else if file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		reason = err.Error()
	} else {
		file.Close()
	}
	FailOrSkip(t, reason)
}

// lacking fails the test in CI and skips it elsewhere, if reason says that something is
// missing.
func FailOrSkip(t *testing.T, reason string) {
	t.Helper()
	if reason == "" {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("CI must have what this test needs: ", reason)
	}
	t.Skip(reason)
}

// needProgram does the same for a program of the system (make deps installs them).
func NeedProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		FailOrSkip(t, err.Error()+"; run make deps")
	}
}

// mount is a directory that a latchfs process serves.
type Mount struct {
	T        *testing.T
	Dir      string
	StateDir string
	Args     []string
	Program  string     // latchfs if it is ""
	Env      []string   // beside the test's own
	Files    []*os.File // that it starts with
	Keeper   *exec.Cmd
	Ended    chan struct{} // closed when process has ended
	startLog Buffer
}

// mountOver mounts over dir with a state directory of its own and unmounts at the end
// of the test.
func MountOver(t *testing.T, dir string, args ...string) *Mount {
	t.Helper()
	return (&Mount{T: t, Args: args}).Over(dir)
}

// over fills m in and starts it.
func (m *Mount) Over(dir string) *Mount {
	t := m.T
	t.Helper()
	NeedFUSE(t)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.Dir, m.StateDir = real, filepath.Join(t.TempDir(), "state")
	m.Start()
	t.Cleanup(m.CleanUp)
	if os.Getenv(KillServersVariable) != "" {
		stop := make(chan struct{})
		kills := m.KillServerRepeatedly(stop, 50*time.Millisecond, 500*time.Millisecond)
		t.Cleanup(func() {
			close(stop)
			t.Logf("servers killed: %d", kills())
			m.WaitUntilServed()
		})
	}
	return m
}

// start runs latchfs mount and returns once the mount is usable.
func (m *Mount) Start(prefix ...string) {
	m.T.Helper()
	if err := m.TryStart(prefix...); err != nil {
		m.T.Fatal(err)
	}
}

func (m *Mount) TryStart(prefix ...string) error {
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	program := m.Program
	if program == "" {
		program = Latchfs
	}
	words := append(append(prefix, program, "mount", "--state-dir", m.StateDir, "--log-format", "json", "--log-level", "debug"), m.Args...)
	words = append(words, m.Dir)
	m.Keeper = exec.Command(words[0], words[1:]...)
	m.Keeper.Env = append(append(os.Environ(), fmt.Sprintf("LATCHFS_READY_FD=%d", 3+len(m.Files))), m.Env...)
	m.Keeper.ExtraFiles = append(m.Files[:len(m.Files):len(m.Files)], report)
	// Its own log goes to a file once it is ready.
	m.Keeper.Stderr = &m.startLog
	if err := m.Keeper.Start(); err != nil {
		report.Close()
		return err
	}
	report.Close()
	word := make([]byte, 64)
	n, _ := ready.Read(word)
	m.Ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait()
		close(ended)
	}(m.Keeper, m.Ended)
	if string(word[:n]) != "ready\n" {
		<-m.Ended
		return fmt.Errorf("latchfs did not mount: %s", m.startLog.String())
	}
	return nil
}

// served are the processes that the keeper has started, and those that they have: server and descriptor keeper.
func (m *Mount) ServerProcesses() (pids []int) {
	for _, server := range Children(m.Keeper.Process.Pid) {
		pids = append(append(pids, server), Children(server)...)
	}
	return pids
}

// kill ends the daemon as nothing else would: the mount stays, dead.
func (m *Mount) Kill() {
	m.T.Helper()
	others := m.ServerProcesses() // they end with it
	if err := m.Keeper.Process.Kill(); err != nil {
		m.T.Fatal(err)
	}
	<-m.Ended
	for _, pid := range others {
		Eventually(m.T, "server and descriptor keeper have ended", func() bool { return HasEnded(pid) })
	}
}

// unmount ends the mount and its daemon.
func (m *Mount) Unmount() {
	m.T.Helper()
	if out, err := exec.Command(Latchfs, "umount", m.Dir).CombinedOutput(); err != nil {
		m.T.Fatalf("umount: %v: %s", err, out)
	}
	<-m.Ended
}

func (m *Mount) CleanUp() {
	if m.T.Failed() {
		m.T.Logf("log of latchfs:\n%s", m.Log())
	}
	for range 100 {
		err := unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // not mounted any more
			break
		}
		for deadline := time.Now().Add(time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // the notifier looks something up
			err = unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW)
		}
		if errors.Is(err, unix.EBUSY) {
			m.T.Errorf("%s is still in use at the end of the test", m.Dir)
			err = unix.Unmount(m.Dir, unix.MNT_DETACH)
		}
		if err != nil {
			m.T.Errorf("A MOUNT IS LEFT BEHIND at %s: %v", m.Dir, err)
			break
		}
	}
	select {
	case <-m.Ended:
	case <-time.After(10 * time.Second):
		m.T.Errorf("latchfs, process %d, did not end after its mount was gone; log:\n%s", m.Keeper.Process.Pid, m.Log())
		_ = m.Keeper.Process.Kill()
		<-m.Ended
	}
	if _, race, found := strings.Cut(m.Log(), "WARNING: DATA RACE"); found {
		m.T.Errorf("a data race in latchfs:%.4000s", race)
	}
}

// path is the path of name in the mount.
func (m *Mount) Path(name string) string { return filepath.Join(m.Dir, name) }

// allLog is what latchfs logged so far.
func (m *Mount) Log() string {
	later, _ := os.ReadFile(filepath.Join(m.StateDir, "log"))
	return m.startLog.String() + string(later)
}

// logged finds the log entries whose message contains text.
func (m *Mount) Logged(text string) []map[string]any {
	m.T.Helper()
	var found []map[string]any
	for line := range strings.Lines(m.Log()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && strings.Contains(fmt.Sprint(entry["msg"]), text) {
			found = append(found, entry)
		}
	}
	return found
}

// lock is a lock as latchfs ls --json shows it.
type Lock struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	Made       time.Time `json:"made"`
	Verdict    string    `json:"verdict"`
	Reason     string    `json:"reason"`
	Kind       string    `json:"kind"`
	Rule       string    `json:"rule"`
	Evidence   string    `json:"evidence"`
	Payload    string    `json:"payload"`
	Holder     struct {
		PID int    `json:"pid"`
		UID uint32 `json:"uid"`
	} `json:"holder"`
	ReclaimedAt *time.Time `json:"reclaimed_at"`
	LockedBy    []struct {
		Type, Access string
		PID          int
	} `json:"locked_by"`
}

// locks are those there are, by name.
func (m *Mount) Locks() map[string]Lock {
	m.T.Helper()
	locks := make(map[string]Lock)
	for _, l := range m.List() {
		if l.ReclaimedAt == nil && l.Verdict != "settled" {
			locks[l.Name] = l
		}
	}
	return locks
}

// listed asks for all that latchfs ls --json knows.
func (m *Mount) List() []Lock {
	m.T.Helper()
	out, err := exec.Command(Latchfs, "ls", "--json", m.Dir).Output()
	if err != nil {
		m.T.Fatalf("latchfs ls: %v", err)
	}
	var list []Lock
	if err := json.Unmarshal(out, &list); err != nil {
		m.T.Fatal(err)
	}
	return list
}

// eventually waits for a condition that another process brings about.
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// signal sends one process a signal: pid 0 and below would mean whole groups, that of the tests
// and of who runs them among them.
func Signal(t *testing.T, pid int, what unix.Signal) {
	t.Helper()
	if pid <= 0 {
		t.Fatalf("there is no process to send %v to", what)
	}
	if err := unix.Kill(pid, what); err != nil {
		t.Fatal(err)
	}
}

// end ends one process by a signal, and returns once it has ended.
func Kill(t *testing.T, pid int, by unix.Signal) {
	t.Helper()
	Signal(t, pid, by)
	Eventually(t, "the process that was signalled has ended", func() bool { return HasEnded(pid) })
}

func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// reclaimedFiles are those kept of the locks that were removed, the oldest first.
func ReclaimedFiles(t *testing.T, m *Mount) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.StateDir, "reclaimed", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A Restart replaces the processes of a mount and keeps its state directory.
type Restart struct {
	Name string
	Do   func(m *Mount)
}

// Restarts lists the restarts that a verdict must survive. The first one does nothing.
var Restarts = []Restart{
	{"without a restart", func(*Mount) {}},
	{"server killed", func(m *Mount) {
		m.KillServer()
		m.WaitUntilServed()
	}},
	{"new mount", func(m *Mount) {
		m.Unmount()
		m.Start()
	}},
	{"keeper and server killed", func(m *Mount) {
		for _, pid := range m.ServerProcesses() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		m.Kill()
		m.Start()
	}},
}

// verdicts are those of all files at lock names that are there, by name.
func (m *Mount) Verdicts() map[string]Lock {
	m.T.Helper()
	verdicts := make(map[string]Lock)
	for _, l := range m.List() {
		if l.ReclaimedAt == nil {
			verdicts[l.Name] = l
		}
	}
	return verdicts
}
