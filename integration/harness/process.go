//go:build linux

package harness

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// HelperVariable is an environment variable with the name of the helper that Main runs instead of the tests.
const HelperVariable = "LATCHFS_TEST_HELPER"

// A Process is a helper process to which a test sends commands, listed in locker. All of them are children of the
// test, and a parent belongs to the family of its children: so a test touches locks only through a Process.
type Process struct {
	t       *testing.T
	Cmd     *exec.Cmd
	in      io.WriteCloser
	answers *bufio.Scanner
	ended   bool
}

// StartProcess starts a Process, behind the words of prefix. It is killed at the end of the test.
func StartProcess(t *testing.T, prefix ...string) *Process {
	t.Helper()
	words := append(prefix, "/proc/self/exe")
	if len(prefix) > 0 {
		program, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		words[len(words)-1] = program
	}
	p := &Process{t: t, Cmd: exec.Command(words[0], words[1:]...)}
	p.Cmd.Env = append(os.Environ(), HelperVariable+"=locker")
	p.Cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.Cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.answers = bufio.NewScanner(out)
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// PID returns its pid.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Do sends a command and returns the answer.
func (p *Process) Do(words ...string) string {
	p.t.Helper()
	p.Send(words...)
	return p.Answer()
}

// Send sends a command and does not wait for the answer.
func (p *Process) Send(words ...string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.in, strings.Join(words, " ")); err != nil {
		p.t.Fatal(err)
	}
}

// Answer waits for the answer to a command that was sent.
func (p *Process) Answer() string {
	p.t.Helper()
	if !p.answers.Scan() {
		p.t.Fatalf("process %d did not answer", p.PID())
	}
	return p.answers.Text()
}

// Must sends a command and fails the test unless this is the answer.
func (p *Process) Must(answer string, words ...string) {
	p.t.Helper()
	if got := p.Do(words...); got != answer {
		p.t.Fatalf("%v: answered %s, not %s", words, got, answer)
	}
}

// Kill kills the process and waits until it has ended.
func (p *Process) Kill() {
	if !p.ended {
		p.ended = true
		_ = p.Cmd.Process.Kill()
		_ = p.Cmd.Wait()
	}
}

// ExitWith ends the process with an exit status other than 0.
func (p *Process) ExitWith(status int) {
	p.t.Helper()
	p.ended = true
	if _, err := fmt.Fprintln(p.in, "fail", status); err != nil {
		p.t.Fatal(err)
	}
	if _ = p.Cmd.Wait(); p.Cmd.ProcessState.ExitCode() != status {
		p.t.Fatal(p.Cmd.ProcessState)
	}
}

// Exit ends the process with the exit status 0.
func (p *Process) Exit() {
	p.t.Helper()
	p.ended = true
	p.in.Close()
	if err := p.Cmd.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// OwnPID returns the payload of a lock that the test takes itself.
func OwnPID() string { return strconv.Itoa(os.Getpid()) + "\n" }

// EnvNumber returns the number in an environment variable, or a default if the variable is not set.
func EnvNumber(t *testing.T, variable string, without int) int {
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

// DeadPID returns the pid of a process that has ended.
func DeadPID(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
