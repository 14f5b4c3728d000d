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

// container is a process tree in user, pid, mount and UTS namespaces of its own, in each of
// which the first process is pid 1 of a machine called box.
type Container struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
}

// newContainer runs a script as its pid 1, and returns once that has printed a line.
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
		m.T.Fatalf("the container said nothing: %v", err)
	}
	return c, strings.TrimSpace(line)
}

// kill ends every process in it at once, as the death of pid 1 does.
func (c *Container) Kill() {
	if c.cmd.ProcessState == nil {
		_ = unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL)
		_ = c.cmd.Wait()
		Eventually(c.t, "the container has ended", func() bool { return unix.Kill(-c.cmd.Process.Pid, unix.SIGKILL) != nil })
	}
}

// namespace runs latchfs and its users in a mount namespace in which the boot id is what
// a file says, by the kernel's own interface.
type BootNamespace struct {
	t      *testing.T
	bootID string // the file mounted over the kernel's
	log    string
}

func NewBootNamespace(t *testing.T) *BootNamespace {
	t.Helper()
	NeedFUSE(t)
	dir := t.TempDir()
	n := &BootNamespace{t: t, bootID: filepath.Join(dir, "boot_id"), log: filepath.Join(dir, "log")}
	n.SetBootID("11111111-2222-4333-8444-555555555555\n")
	return n
}

func (n *BootNamespace) SetBootID(id string) {
	n.t.Helper()
	if err := os.WriteFile(n.bootID, []byte(id), 0o444); err != nil {
		n.t.Fatal(err)
	}
}

// run runs a shell script in mount and pid namespaces of its own, with the boot id mounted;
// all it started ends with it.
func (n *BootNamespace) Run(script string) {
	n.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", `
		set -eu
		mount --bind "$BOOT_ID" /proc/sys/kernel/random/boot_id
		mounted() { "$LATCHFS" mount --log-level debug --state-dir "$STATE" "$DIR" 2>>"$LOG" & daemon=$!
			n=0; until test -e "$DIR/.latchfs/status"; do n=$((n+1)); test $n -lt 1000 || { cat "$LOG"; exit 1; }; sleep 0.01; done; }
		# A lock is taken by a shell of its own, which waits for a word to end.
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
