//go:build linux

package locks

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestWhoeverWritesTheText checks that the holder is the process that the lock names, whichever process writes the
// payload, and whatever the writer does afterwards.
func TestWhoeverWritesTheText(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	stranger := harness.StartProcess(t)
	for name, take := range map[string]string{
		"a copying command":     `echo $$ >t; (set -C; cat t >x.lock); echo $$`,
		"cp":                    `echo $$ >t; cp -n t x.lock; echo $$`,
		"dd":                    `echo $$ >t; dd if=t of=x.lock conv=excl 2>/dev/null; echo $$`,
		"a command that ends":   `bash -c 'set -C; echo $PPID >x.lock'; echo $$`,
		"a text in a directory": `mkdir x.lock; bash -c 'echo $PPID >x.lock/owner'; echo $$`,
		"a full directory":      `mkdir x.lock; echo $$ >x.lock/pid; for i in 1 2 3 4 5 6; do echo $i >x.lock/note$i; done; mkdir x.lock/more; echo $$`,
		"a daemon that is given the descriptor": `/usr/bin/python3 -c '
import os
fd = os.open("x.lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while os.getppid() != 1: pass
        os.write(fd, b"%d\n" % os.getpid()); os.close(fd)
        print(os.getpid(), flush=True)
        os.execlp("sleep", "sleep", "1000")
' 2>/dev/null; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			s := m.StartScript(take + `; while :; do sleep 1; done`)
			if l := m.Verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID {
				t.Errorf("%+v", l)
			}
			stranger.Must("EBUSY", "rename", m.Path("x.lock"), m.Path("away"))
			s.Kill()
			harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
			s.End()
			m.MustRun("rm -f t")
		})
	}
}

// TestFirstProcessOfAContainerHolds checks that pid 1 of a container holds the locks that its commands make, as
// any script does.
func TestFirstProcessOfAContainerHolds(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, take := range []string{`mkdir x.lock`, `mkdir x.lock; echo $$ >x.lock/pid`, `(set -C; echo $$ >x.lock)`} {
		c, _ := m.StartContainer(`test $$ = 1; ` + take + `; echo ready; while :; do sleep 1; done`)
		m.MustFail("Device or resource busy", "mv x.lock away")
		if l := m.Verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID == 1 {
			t.Errorf("%s: %+v", take, l)
		}
		c.Kill()
		harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
	}
}

// TestKilledHolderIsRobbedOfNothing kills a holder and removes its lock, as init scripts do. The removal succeeds
// although the holder may not have ended yet.
func TestKilledHolderIsRobbedOfNothing(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		for range 20 {
			s := m.StartScript(`set -C; echo $$ >x.lock; echo $$; exec sleep 1000`)
			if err := unix.Kill(s.PID, signal); err != nil {
				t.Fatal(err)
			}
			if err := unix.Unlink(m.Path("x.lock")); err != nil && err != unix.ENOENT {
				t.Errorf("signal %v: %v", signal, err)
			}
			s.End()
		}
	}
	if said := m.Log(); strings.Contains(said, "refused") {
		t.Error("a removal was refused")
	}
}

// TestCopiedDirectoryIsNoLock checks that a process that makes a directory, puts texts into it and ends leaves a
// copy, and no lock.
func TestCopiedDirectoryIsNoLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--stale-after", "1s")
	m.MustRun(`mkdir -p src/a.lock; echo some words >src/a.lock/one; echo more >src/a.lock/two; git init -q g; cp -r src/a.lock g/b.lock
		cd g; git add .; git -c user.name=a -c user.email=a@b commit -qm a; cd ..; git clone -q g clone; cp -r src/a.lock src/c.lock`)
	for _, restart := range harness.Restarts {
		restart.Do(m)
		for _, name := range []string{"clone/b.lock", "src/c.lock", "g/b.lock"} {
			if l := m.Verdicts()[name]; l.Verdict != "settled" {
				t.Errorf("%s: %s: %+v", restart.Name, name, l)
			}
			harness.CheckContent(t, m.Path(name)+"/one", "some words\n")
		}
	}
	m.MustRun("rm -r clone/b.lock src/c.lock")
}
