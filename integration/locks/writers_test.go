//go:build linux

package integration

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWhoeverWritesTheText: a lock names its holder, whichever process writes the text for it, and whatever that
// does after.
func TestWhoeverWritesTheText(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	stranger := newLocker(t)
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
			s := m.startScript(take + `; while :; do sleep 1; done`)
			if l := m.verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.pid {
				t.Errorf("%+v", l)
			}
			stranger.must("EBUSY", "rename", m.path("x.lock"), m.path("away"))
			s.kill()
			eventually(t, "it is free", func() bool { return !exists(m.path("x.lock")) })
			s.end()
			m.mustDo("rm -f t")
		})
	}
}

// TestFirstProcessOfAContainerHolds what its commands make, as any script does.
func TestFirstProcessOfAContainerHolds(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	for _, take := range []string{`mkdir x.lock`, `mkdir x.lock; echo $$ >x.lock/pid`, `(set -C; echo $$ >x.lock)`} {
		c, _ := m.newContainer(`test $$ = 1; ` + take + `; echo ready; while :; do sleep 1; done`)
		m.mustFail("Device or resource busy", "mv x.lock away")
		if l := m.verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID == 1 {
			t.Errorf("%s: %+v", take, l)
		}
		c.kill()
		eventually(t, "it is free", func() bool { return !exists(m.path("x.lock")) })
	}
}

// TestKilledHolderIsRobbedOfNothing: to end a holder and remove its lock is what init scripts do. It has not
// ended yet when the lock is removed.
func TestKilledHolderIsRobbedOfNothing(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGTERM} {
		for range 20 {
			s := m.startScript(`set -C; echo $$ >x.lock; echo $$; exec sleep 1000`)
			if err := unix.Kill(s.pid, signal); err != nil {
				t.Fatal(err)
			}
			if err := unix.Unlink(m.path("x.lock")); err != nil && err != unix.ENOENT {
				t.Errorf("signal %v: %v", signal, err)
			}
			s.end()
		}
	}
	if said := m.allLog(); strings.Contains(said, "refused") {
		t.Error("a removal was refused")
	}
}

// TestCopiedDirectoryIsNoLock: what makes a directory and puts texts into it, and ends, leaves a copy.
func TestCopiedDirectoryIsNoLock(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir(), "--stale-after", "1s")
	m.mustDo(`mkdir -p src/a.lock; echo some words >src/a.lock/one; echo more >src/a.lock/two; git init -q g; cp -r src/a.lock g/b.lock
		cd g; git add .; git -c user.name=a -c user.email=a@b commit -qm a; cd ..; git clone -q g clone; cp -r src/a.lock src/c.lock`)
	for _, restart := range restarts {
		restart.do(m)
		for _, name := range []string{"clone/b.lock", "src/c.lock", "g/b.lock"} {
			if l := m.verdicts()[name]; l.Verdict != "settled" {
				t.Errorf("%s: %s: %+v", restart.name, name, l)
			}
			holds(t, m.path(name)+"/one", "some words\n")
		}
	}
	m.mustDo("rm -r clone/b.lock src/c.lock")
}
