//go:build linux

package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Mount is a directory over which latchfs is mounted. MountOver makes one with defaults. A test that needs
// other settings fills in the fields up to Files and calls Over.
type Mount struct {
	T        *testing.T
	Dir      string     // the mount point, without symbolic links
	StateDir string     // --state-dir
	Args     []string   // further arguments of latchfs mount
	Program  string     // the program to run; Latchfs if empty
	Env      []string   // added to the environment of the test
	Files    []*os.File // descriptors 3 and up of latchfs mount

	Keeper   *exec.Cmd     // the process of latchfs mount, which starts the server
	Ended    chan struct{} // closed once Keeper has ended
	startLog Buffer        // what Keeper logs until the mount is ready; the log is a file from then on
}

// MountOver mounts latchfs over dir, with a state directory of its own and further arguments of latchfs mount.
// It is unmounted at the end of the test.
func MountOver(t *testing.T, dir string, args ...string) *Mount {
	t.Helper()
	return (&Mount{T: t, Args: args}).Over(dir)
}

// Over mounts m over dir, with a state directory of its own, and unmounts it at the end of the test.
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

// Start runs latchfs mount, behind the words of prefix, and returns once the mount is usable.
func (m *Mount) Start(prefix ...string) {
	m.T.Helper()
	if err := m.TryStart(prefix...); err != nil {
		m.T.Fatal(err)
	}
}

// TryStart is Start for a mount that may fail.
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

// ServerProcesses returns the processes beneath the keeper: the server and its descriptor keeper.
func (m *Mount) ServerProcesses() (pids []int) {
	for _, server := range Children(m.Keeper.Process.Pid) {
		pids = append(append(pids, server), Children(server)...)
	}
	return pids
}

// Kill kills the keeper and waits until the server has ended too. The mount stays, and every access to it fails.
func (m *Mount) Kill() {
	m.T.Helper()
	others := m.ServerProcesses() // these end with the keeper
	if err := m.Keeper.Process.Kill(); err != nil {
		m.T.Fatal(err)
	}
	<-m.Ended
	for _, pid := range others {
		Eventually(m.T, "server and descriptor keeper have ended", func() bool { return HasEnded(pid) })
	}
}

// Unmount unmounts with latchfs umount and waits until latchfs has ended.
func (m *Mount) Unmount() {
	m.T.Helper()
	if out, err := exec.Command(Latchfs, "umount", m.Dir).CombinedOutput(); err != nil {
		m.T.Fatalf("umount: %v: %s", err, out)
	}
	<-m.Ended
}

// CleanUp unmounts at the end of the test. It fails the test if the mount is in use, if latchfs does not end, or
// if the race detector found something in latchfs.
func (m *Mount) CleanUp() {
	if m.T.Failed() {
		m.T.Logf("log of latchfs:\n%s", m.Log())
	}
	for range 100 {
		err := unix.Unmount(m.Dir, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) { // no longer mounted
			break
		}
		for deadline := time.Now().Add(time.Second); errors.Is(err, unix.EBUSY) && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // the inotify notifier may be looking a name up
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

// Path returns the path of name in the mount.
func (m *Mount) Path(name string) string { return filepath.Join(m.Dir, name) }

// Log returns what latchfs has logged so far.
func (m *Mount) Log() string {
	later, _ := os.ReadFile(filepath.Join(m.StateDir, "log"))
	return m.startLog.String() + string(later)
}

// Logged returns the log entries whose message contains text.
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
