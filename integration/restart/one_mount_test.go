//go:build linux

package integration

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOneLatchfsADirectory: another mount namespace, and a state directory of its own, make no second latchfs. A user
// who may read the directory cannot keep it from being mounted.
func TestOneLatchfsADirectory(t *testing.T) {
	needProgram(t, "unshare")
	m := mountOver(t, testDir(t))
	m.killServer()
	m.eventuallyServed()
	second := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `umount "$2" && exec "$0" mount --state-dir "$1" "$2"`,
		latchfs, filepath.Join(t.TempDir(), "state"), m.dir)
	out, _ := second.CombinedOutput() // the exit code says it
	if says := fmt.Sprintf("another latchfs, process %d,", m.process.Process.Pid); second.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), says) {
		t.Errorf("%v: %s, which should say %s", second.ProcessState, out, says)
	}
	m.unmount()
	stranger := newLocker(t, asUser(t, 1002)...)
	stranger.must("ok", "claim", m.dir)
	m.start()
	if said := m.logged("pretends to be a latchfs"); len(said) != 1 || said[0]["pid"] != float64(stranger.pid()) {
		t.Errorf("%v", said)
	}
	if said := m.logged("has the directory open from before"); len(said) != 1 { // the stranger
		t.Errorf("%v", said)
	}
}

// TestMountWaitsForTheFormerOne: it was just unmounted, has not ended, and is not said to use the directory.
func TestMountWaitsForTheFormerOne(t *testing.T) {
	m := mountOver(t, t.TempDir())
	former := append(m.served(), m.process.Process.Pid)
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
	if err := unix.Unmount(m.dir, 0); err != nil {
		t.Fatal(err)
	}
	again := &mount{t: t, dir: m.dir, stateDir: m.stateDir, log: &logBuffer{}}
	time.AfterFunc(2500*time.Millisecond, goOn)
	again.start()
	again.unmount()
	if said := again.logged("has the directory open"); said != nil {
		t.Error(said)
	}
}

// TestMountAfterLazyUmount: it says who keeps the former mount.
func TestMountAfterLazyUmount(t *testing.T) {
	m := mountOver(t, t.TempDir())
	user := exec.Command("sleep", "1000")
	user.Dir = m.dir
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = user.Process.Kill()
		_ = user.Wait()
	}()
	if code, said := run(t, nil, "umount", "--lazy", m.dir); code != 0 {
		t.Fatal(said)
	}
	code, said := run(t, nil, "mount", "--state-dir", m.stateDir, m.dir)
	if says := fmt.Sprintf("%d (sleep)", user.Process.Pid); code != 4 || !strings.Contains(said, "since umount --lazy: ") || !strings.Contains(said, says) {
		t.Errorf("exit code %d, said %q, which should say %s", code, said, says)
	}
}
