//go:build linux

package harness

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// StartScript runs a bash script in the mount, in a session of its own, and returns once the script has printed a
// line with the pid of the process that holds the lock.
func (m *Mount) StartScript(script string) *Script {
	m.T.Helper()
	s := &Script{t: m.T, Cmd: exec.Command("bash", "-c", script)}
	s.Cmd.Dir = m.Dir
	s.Cmd.Stderr = os.Stderr
	s.Cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := s.Cmd.StdoutPipe()
	if err != nil {
		m.T.Fatal(err)
	}
	if err := s.Cmd.Start(); err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(s.End)
	s.Out = bufio.NewReader(out)
	if _, err := fmt.Fscanln(s.Out, &s.PID); err != nil {
		m.T.Fatalf("%s: the script did not print the pid of the holder: %v", script, err)
	}
	return s
}

// A Script is a bash script that runs in a mount.
type Script struct {
	t   *testing.T
	Cmd *exec.Cmd
	Out *bufio.Reader // what it prints after the pid
	PID int           // the process that it printed, which holds the lock
}

// Kill kills the process that holds the lock and returns once that process has ended.
func (s *Script) Kill() {
	s.t.Helper()
	Kill(s.t, s.PID, unix.SIGKILL)
}

// End kills all processes of the script.
func (s *Script) End() {
	group := -s.Cmd.Process.Pid
	_ = unix.Kill(group, unix.SIGKILL)
	_ = s.Cmd.Wait()
	Eventually(s.t, "all its processes have ended", func() bool { return unix.Kill(group, unix.SIGKILL) != nil })
}

// RunScript runs a bash script in the mount and returns its output. It belongs to the family of no other script.
func (m *Mount) RunScript(script string) (string, error) {
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = m.Dir
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// MustFail runs a bash script in the mount, which must fail and print a text.
func (m *Mount) MustFail(says, script string) {
	m.T.Helper()
	if out, err := m.RunScript(script); err == nil || !strings.Contains(out, says) {
		m.T.Errorf("%s: %v, said %q, not %q", script, err, out, says)
	}
}

// MustRun runs a bash script in the mount, which must succeed.
func (m *Mount) MustRun(script string) {
	m.T.Helper()
	if out, err := m.RunScript(script); err != nil {
		m.T.Errorf("%s: %v: %s", script, err, out)
	}
}

// RunShell runs a bash script in dir, which must succeed, and returns what it printed. git works in it.
func RunShell(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.Command("bash", "-euc", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// RunLatchfs runs latchfs as a user, root if credential is nil, and returns its exit code and its standard error.
func RunLatchfs(t *testing.T, credential *syscall.Credential, args ...string) (int, string) {
	t.Helper()
	cmd := exec.Command(Latchfs, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	var said bytes.Buffer
	cmd.Stderr = &said
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}
