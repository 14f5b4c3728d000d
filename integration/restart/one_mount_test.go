//go:build linux

package restart

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestOneLatchfsADirectory checks that a directory cannot be mounted over twice, also not in another mount
// namespace or with another state directory. A user that may read the directory cannot keep it from being mounted.
func TestOneLatchfsADirectory(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "unshare")
	m := harness.MountOver(t, harness.PublicDir(t))
	m.KillServer()
	m.WaitUntilServed()
	second := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `umount "$2" && exec "$0" mount --state-dir "$1" "$2"`,
		harness.Latchfs, filepath.Join(t.TempDir(), "state"), m.Dir)
	out, _ := second.CombinedOutput() // the exit code is checked
	if says := fmt.Sprintf("another latchfs, process %d,", m.Keeper.Process.Pid); second.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), says) {
		t.Errorf("%v: %s, which should say %s", second.ProcessState, out, says)
	}
	m.Unmount()
	stranger := harness.StartProcess(t, harness.AsUser(t, 1002)...)
	stranger.Must("ok", "claim", m.Dir)
	m.Start()
	if said := m.Logged("pretends to be a latchfs"); len(said) != 1 || said[0]["pid"] != float64(stranger.PID()) {
		t.Errorf("%v", said)
	}
	// It looks for other processes when the mount is already usable.
	harness.Eventually(t, "the process of the other user is logged", func() bool { return len(m.Logged("has the directory open from before")) == 1 })
}

// TestMountWaitsForTheFormerOne mounts while the latchfs of a directory that was just unmounted has not ended. The
// mount waits, and does not log that process as one that has the directory open.
func TestMountWaitsForTheFormerOne(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	former := append(m.ServerProcesses(), m.Keeper.Process.Pid)
	for _, pid := range former {
		if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	goOn := func() {
		for _, pid := range former {
			_ = unix.Kill(pid, unix.SIGCONT) // it may have ended
		}
	}
	defer goOn()
	if err := unix.Unmount(m.Dir, 0); err != nil {
		t.Fatal(err)
	}
	again := &harness.Mount{T: t, Dir: m.Dir, StateDir: m.StateDir}
	time.AfterFunc(2500*time.Millisecond, goOn)
	again.Start()
	again.Unmount()
	if said := again.Logged("has the directory open"); said != nil {
		t.Error(said)
	}
}

// TestMountAfterLazyUmount checks that the error names the process that keeps the former mount.
func TestMountAfterLazyUmount(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	user := exec.Command("sleep", "1000")
	user.Dir = m.Dir
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = user.Process.Kill()
		_ = user.Wait()
	}()
	if code, said := harness.RunLatchfs(t, nil, "umount", "--lazy", m.Dir); code != 0 {
		t.Fatal(said)
	}
	code, said := harness.RunLatchfs(t, nil, "mount", "--state-dir", m.StateDir, m.Dir)
	if says := fmt.Sprintf("%d (sleep)", user.Process.Pid); code != 4 || !strings.Contains(said, "since umount --lazy: ") || !strings.Contains(said, says) {
		t.Errorf("exit code %d, said %q, which should say %s", code, said, says)
	}
}
