//go:build linux

package integration

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
var latchfs string

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) != "" {
		runHelper()
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
	latchfs = filepath.Join(dir, "latchfs")
	if err := build(latchfs); err != nil {
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
func build(program string, args ...string) error {
	args = append([]string{"build", "-o", program}, args...)
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "latchfs/cmd/latchfs")...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// needFUSE skips a test where the kernel or the user cannot mount, but not in CI.
func needFUSE(t *testing.T) {
	t.Helper()
	reason := ""
	if os.Geteuid() != 0 {
		reason = "mounting without fusermount3 takes root"
	} else if file, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		reason = err.Error()
	} else {
		file.Close()
	}
	lacking(t, reason)
}

// lacking fails the test in CI and skips it elsewhere, if reason says that something is
// missing.
func lacking(t *testing.T, reason string) {
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
func needProgram(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		lacking(t, err.Error()+"; run make deps")
	}
}

// mount is a directory that a latchfs process serves.
type mount struct {
	t        *testing.T
	dir      string
	stateDir string
	args     []string
	program  string     // latchfs if it is ""
	env      []string   // beside the test's own
	files    []*os.File // that it starts with
	process  *exec.Cmd
	ended    chan struct{} // closed when process has ended
	log      *logBuffer
}

// mountOver mounts over dir with a state directory of its own and unmounts at the end
// of the test.
func mountOver(t *testing.T, dir string, args ...string) *mount {
	t.Helper()
	return (&mount{t: t, args: args}).over(dir)
}

// over fills m in and starts it.
func (m *mount) over(dir string) *mount {
	t := m.t
	t.Helper()
	needFUSE(t)
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	m.dir, m.stateDir, m.log = real, filepath.Join(t.TempDir(), "state"), &logBuffer{}
	m.start()
	t.Cleanup(m.cleanUp)
	if os.Getenv(killerVariable) != "" {
		stop := make(chan struct{})
		kills := m.killAgainAndAgain(stop, 50*time.Millisecond, 500*time.Millisecond)
		t.Cleanup(func() {
			close(stop)
			t.Logf("servers killed: %d", kills())
			m.eventuallyServed()
		})
	}
	return m
}

// start runs latchfs mount and returns once the mount is usable.
func (m *mount) start(prefix ...string) {
	m.t.Helper()
	if err := m.tryStart(prefix...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *mount) tryStart(prefix ...string) error {
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	program := m.program
	if program == "" {
		program = latchfs
	}
	words := append(append(prefix, program, "mount", "--state-dir", m.stateDir, "--log-format", "json", "--log-level", "debug"), m.args...)
	words = append(words, m.dir)
	m.process = exec.Command(words[0], words[1:]...)
	m.process.Env = append(append(os.Environ(), fmt.Sprintf("LATCHFS_READY_FD=%d", 3+len(m.files))), m.env...)
	m.process.ExtraFiles = append(m.files[:len(m.files):len(m.files)], report)
	// Its own log goes to a file once it is ready.
	m.process.Stderr = m.log
	if err := m.process.Start(); err != nil {
		report.Close()
		return err
	}
	report.Close()
	word := make([]byte, 64)
	n, _ := ready.Read(word)
	m.ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait()
		close(ended)
	}(m.process, m.ended)
	if string(word[:n]) != "ready\n" {
		<-m.ended
		return fmt.Errorf("latchfs did not mount: %s", m.log.String())
	}
	return nil
}

// served are the processes that the keeper has started, and those that they have: server and descriptor keeper.
func (m *mount) served() (pids []int) {
	for _, server := range children(m.process.Process.Pid) {
		pids = append(append(pids, server), children(server)...)
	}
	return pids
}

// kill ends the daemon as nothing else would: the mount stays, dead.
func (m *mount) kill() {
	m.t.Helper()
	others := m.served() // they end with it
	if err := m.process.Process.Kill(); err != nil {
		m.t.Fatal(err)
	}
	<-m.ended
	for _, pid := range others {
		eventually(m.t, "server and descriptorKeeper have ended", func() bool { return ended(pid) })
	}
}

// unmount ends the mount and its daemon.
func (m *mount) unmount() {
	m.t.Helper()
	if out, err := exec.Command(latchfs, "umount", m.dir).CombinedOutput(); err != nil {
		m.t.Fatalf("umount: %v: %s", err, out)
	}
	<-m.ended
}

func (m *mount) cleanUp() {
	if m.t.Failed() {
		m.t.Logf("log of latchfs:\n%s", m.allLog())
	}
	for range 100 {
		err := unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // not mounted any more
			break
		}
		for deadline := time.Now().Add(time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // the notifier looks something up
			err = unix.Unmount(m.dir, unix.UMOUNT_NOFOLLOW)
		}
		if errors.Is(err, unix.EBUSY) {
			m.t.Errorf("%s is still in use at the end of the test", m.dir)
			err = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
		if err != nil {
			m.t.Errorf("A MOUNT IS LEFT BEHIND at %s: %v", m.dir, err)
			break
		}
	}
	select {
	case <-m.ended:
	case <-time.After(10 * time.Second):
		m.t.Errorf("latchfs, process %d, did not end after its mount was gone; log:\n%s", m.process.Process.Pid, m.allLog())
		_ = m.process.Process.Kill()
		<-m.ended
	}
	if _, race, found := strings.Cut(m.allLog(), "WARNING: DATA RACE"); found {
		m.t.Errorf("a data race in latchfs:%.4000s", race)
	}
}

// path is the path of name in the mount.
func (m *mount) path(name string) string { return filepath.Join(m.dir, name) }

// allLog is what latchfs logged so far.
func (m *mount) allLog() string {
	later, _ := os.ReadFile(filepath.Join(m.stateDir, "log"))
	return m.log.String() + string(later)
}

// logged finds the log entries whose message contains text.
func (m *mount) logged(text string) []map[string]any {
	m.t.Helper()
	var found []map[string]any
	for line := range strings.Lines(m.allLog()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && strings.Contains(fmt.Sprint(entry["msg"]), text) {
			found = append(found, entry)
		}
	}
	return found
}

// lock is a lock as latchfs ls --json shows it.
type lock struct {
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
func (m *mount) locks() map[string]lock {
	m.t.Helper()
	locks := make(map[string]lock)
	for _, l := range m.listed() {
		if l.ReclaimedAt == nil && l.Verdict != "settled" {
			locks[l.Name] = l
		}
	}
	return locks
}

// listed asks for all that latchfs ls --json knows.
func (m *mount) listed() []lock {
	m.t.Helper()
	out, err := exec.Command(latchfs, "ls", "--json", m.dir).Output()
	if err != nil {
		m.t.Fatalf("latchfs ls: %v", err)
	}
	var list []lock
	if err := json.Unmarshal(out, &list); err != nil {
		m.t.Fatal(err)
	}
	return list
}

// eventually waits for a condition that another process brings about.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// signal sends one process a signal: pid 0 and below would mean whole groups, that of the tests
// and of who runs them among them.
func signal(t *testing.T, pid int, what unix.Signal) {
	t.Helper()
	if pid <= 0 {
		t.Fatalf("there is no process to send %v to", what)
	}
	if err := unix.Kill(pid, what); err != nil {
		t.Fatal(err)
	}
}

// end ends one process by a signal, and returns once it has ended.
func end(t *testing.T, pid int, by unix.Signal) {
	t.Helper()
	signal(t, pid, by)
	eventually(t, "the process that was signalled has ended", func() bool { return ended(pid) })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
