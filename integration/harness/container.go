//go:build linux

package harness

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A Container is a tree of processes in user, pid, mount and UTS namespaces of its own. Its first process is pid 1,
// and its host name is "box", as in every other Container.
type Container struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

// StartContainer runs a bash script in the mount as pid 1 of a container, and returns the first line that the
// script prints.
func (m *Mount) StartContainer(script string) (*Container, string) {
	m.T.Helper()
	NeedProgram(m.T, "unshare")
	c := &Container{t: m.T, cmd: exec.Command("unshare", "--user", "--map-root-user", "--pid", "--mount", "--uts", "--fork", "--kill-child", "--mount-proc",
		"bash", "-c", "hostname box\n"+script)}
	c.cmd.Dir = m.Dir
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		m.T.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		m.T.Fatal(err)
	}
	m.T.Cleanup(c.Kill)
	c.out = bufio.NewReader(out)
	silent := time.AfterFunc(10*time.Second, func() { _ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) })
	defer silent.Stop()
	line, err := c.out.ReadString('\n')
	if err != nil {
		m.T.Fatalf("the container printed nothing: %v", err)
	}
	return c, strings.TrimSpace(line)
}

// Kill kills every process of the container at once, as the death of pid 1 does.
func (c *Container) Kill() {
	if c.cmd.ProcessState == nil {
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
		_ = c.cmd.Wait()
		Eventually(c.t, "the container has ended", func() bool { return unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) != nil })
	}
}

// A BootNamespace runs latchfs and programs that use it in namespaces in which the test sets the boot id: a file is
// mounted over /proc/sys/kernel/random/boot_id.
type BootNamespace struct {
	t      *testing.T
	bootID string // the file with the boot id
	log    string // the file with latchfs's log
}

// NewBootNamespace returns a BootNamespace with an arbitrary boot id.
func NewBootNamespace(t *testing.T) *BootNamespace {
	t.Helper()
	NeedFUSE(t)
	dir := t.TempDir()
	n := &BootNamespace{t: t, bootID: filepath.Join(dir, "boot_id"), log: filepath.Join(dir, "log")}
	n.SetBootID("11111111-2222-4333-8444-555555555555\n")
	return n
}

// SetBootID changes the boot id.
func (n *BootNamespace) SetBootID(id string) {
	n.t.Helper()
	if err := os.WriteFile(n.bootID, []byte(id), 0o444); err != nil {
		n.t.Fatal(err)
	}
}

// Run runs a shell script in mount and pid namespaces of its own. All processes that it starts end with it. The
// script has the variables DIR, STATE, LOG, LATCHFS and BOOT_ID, and two functions: "mounted" mounts over DIR, and
// "holder NAME" starts a process that takes the lock NAME and sets $holder to its pid.
func (n *BootNamespace) Run(script string) {
	n.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", `
		set -eu
		mount --bind "$BOOT_ID" /proc/sys/kernel/random/boot_id
		mounted() { "$LATCHFS" mount --log-level debug --state-dir "$STATE" "$DIR" 2>>"$LOG" & daemon=$!
			n=0; until test -e "$DIR/.latchfs/status"; do n=$((n+1)); test $n -lt 1000 || { cat "$LOG"; exit 1; }; sleep 0.01; done; }
		holder() { setsid sh -c 'set -C; echo $$ > "$1"; exec sleep 1000' holder "$DIR/$1" & holder=$!
			until test -s "$DIR/$1"; do sleep 0.01; done; }
		`+script)
	dir := n.t.TempDir()
	cmd.Env = append(os.Environ(), "BOOT_ID="+n.bootID, "LATCHFS="+Latchfs, "DIR="+dir,
		"STATE="+filepath.Join(n.t.TempDir(), "state"), "LOG="+n.log)
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(n.log)
		n.t.Fatalf("%v: %s\n%s", err, out, log)
	}
}
