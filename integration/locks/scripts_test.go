//go:build linux

package locks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestScriptHoldsItsLockDirectory checks that the script holds the lock directory that it made by mkdir(1), which
// has ended.
func TestScriptHoldsItsLockDirectory(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, script := range []string{
		`mkdir x.lock && echo $$; while :; do sleep 1; done`,
		`(mkdir x.lock) && echo $$; while :; do sleep 1; done`,    // in a subshell
		`x=$(mkdir x.lock) && echo $$; while :; do sleep 1; done`, // in a command substitution
		`mkdir x.lock; echo $$ > x.lock/pid; echo $$; while :; do sleep 1; done`,
		`mkdir x.lock; date > /dev/null; touch x.lock/empty; echo $$; while :; do sleep 1; done`,
	} {
		s := m.StartScript(script)
		m.MustFail("File exists", "mkdir x.lock")
		m.MustFail("Device or resource busy", "rmdir x.lock")
		m.MustFail("Device or resource busy", "touch x.lock/mine")
		m.MustFail("Device or resource busy", "mv x.lock away")
		m.MustFail("Device or resource busy", "mkdir dir; mv -T dir x.lock || { rmdir dir; false; }")
		if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID || l.Kind != "mkdir" {
			t.Errorf("%s: %+v", script, l)
		}
		s.Kill()
		m.MustRun("mkdir x.lock; rmdir x.lock")
		s.End()
	}
	m.MustRun(`mkdir x.lock; echo $$ > x.lock/pid; touch x.lock/more; rm -r x.lock; ! test -e x.lock`)
	m.MustRun(`mkdir x.lock; trap 'rm -rf x.lock' EXIT; echo $$ > x.lock/pid`)
	if harness.Exists(m.Path("x.lock")) {
		t.Error("a trap did not remove the lock")
	}
}

// TestLinksAndRenames takes locks in the other ways of creating a name exclusively.
func TestLinksAndRenames(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "*.lock", "--lock-pattern", "Singleton*")
	for kind, take := range map[string]string{
		"symlink": `ln -s $$ x.lock`,
		"link":    `echo $$ > t; ln t x.lock; test $(stat -c %h x.lock) = 2; rm t; test $(stat -c %h x.lock) = 1`,
		"rename":  `echo $$ > t; mv t x.lock`,
		"create":  `set -C; echo $$ > x.lock`,
	} {
		s := m.StartScript(`set -e; ` + take + `; echo $$; while :; do sleep 1; done`)
		m.MustFail("File exists", "ln -s 1 x.lock")
		m.MustFail("File exists", "echo 1 > t2; ln t2 x.lock || { rm t2; false; }")
		m.MustFail("cannot overwrite existing file", "set -C; echo 1 > x.lock")
		m.MustFail("Device or resource busy", "echo 1 > t3; mv t3 x.lock || { rm t3; false; }")
		m.MustFail("Device or resource busy", "rm x.lock")
		if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID || l.Kind != kind {
			t.Errorf("%s: %+v", kind, l)
		}
		s.Kill()
		m.MustRun("set -C; echo $$ > x.lock; rm x.lock")
		s.End()
	}
	s := m.StartScript(`ln -s "$(hostname)-$$" SingletonLock; echo $$; while :; do sleep 1; done`)
	m.MustFail("Device or resource busy", "rm SingletonLock")
	s.Kill()
	m.MustRun(`ln -s a-1 SingletonLock; test "$(readlink SingletonLock)" = a-1`)
	m.MustRun(`ln -s ../elsewhere data.lock; echo text > t; ln t data2.lock; mv t data3.lock; mkdir -p d.lock/texts`)
	if locks := m.Locks(); len(locks) != 0 {
		t.Errorf("data are locks: %+v", locks)
	}
	var settled []string
	for _, l := range m.List() {
		if l.Verdict == "settled" && l.Payload == "data" {
			settled = append(settled, l.Name)
		}
	}
	if want := []string{"SingletonLock", "d.lock", "data.lock", "data2.lock", "data3.lock"}; !slices.Equal(settled, want) {
		t.Errorf("settled %v, want %v", settled, want)
	}
}

// TestHolderStaysWhenItsFamilyReplaces renames another file over a lock from the holder's family, as git's hooks
// rename index.lock.lock to index.lock.
func TestHolderStaysWhenItsFamilyReplaces(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	s := m.StartScript(`set -C; echo $$ > x.lock; bash -c 'set -C; echo '$$' > x.lock.lock; mv x.lock.lock x.lock'; echo $$; while :; do sleep 1; done`)
	m.MustFail("Device or resource busy", "rm x.lock")
	if l := m.Locks(); len(l) != 1 || l["x.lock"].Holder.PID != s.PID {
		t.Errorf("%+v", l)
	}
	s.Kill()
	m.MustRun("set -C; echo $$ > x.lock; rm x.lock")
}

// TestDaemonNamedByItsLauncher checks that a daemon holds the lock that its launcher has written with the daemon's
// pid, once the launcher has ended.
func TestDaemonNamedByItsLauncher(t *testing.T) {
	t.Parallel()
	const pidFile = "pid file"
	for name, launch := range map[string]string{
		"create":                     `set -C; setsid sleep 1000 & echo $! > x.lock; echo $!`,
		"create in the same session": `set -C; sleep 1000 & echo $! > x.lock; echo $!`,
		"create, then overwrite":     `set -C; sleep 1000 & echo $$ > x.lock; set +C; echo $! > x.lock; echo $!`,
		pidFile:                      `sleep 1000 & echo $! > x.lock; echo $!`,
		"mkdir":                      `setsid sleep 1000 & mkdir x.lock; echo '{"pid":'$!'}' > x.lock/owner.json; echo $!`,
		"symlink":                    `setsid sleep 1000 & ln -s $! x.lock; echo $!`,
	} {
		t.Run(name, func(t *testing.T) {
			m := harness.MountOver(t, t.TempDir())
			s := m.StartScript("exec </dev/null 2>/dev/null; " + launch)
			_ = s.Cmd.Wait()
			other := harness.StartProcess(t)
			other.Must("EEXIST", "take", m.Path("x.lock"))
			m.MustFail("Device or resource busy", "rm -r x.lock")
			harness.Eventually(t, "the daemon holds", func() bool {
				l := m.Locks()["x.lock"]
				return l.Verdict == "live" && l.Holder.PID == s.PID
			})
			s.Kill()
			if name == pidFile { // not an exclusive create, so the kernel may have the entry cached
				harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
			}
			if harness.Exists(m.Path("x.lock")) {
				t.Error("it is there after the daemon's death")
			}
			m.MustRun("mkdir x.lock; rmdir x.lock")
		})
	}
}

// TestPIDFileIsHeld checks that an ordinary file that names its writer has a holder.
func TestPIDFileIsHeld(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	s := m.StartScript(`echo $$ > d.pid; echo $$; while :; do sleep 1; done`)
	m.MustFail("Device or resource busy", "rm d.pid")
	m.MustFail("Device or resource busy", "echo 1 > t; mv t d.pid || { rm t; false; }")
	m.MustRun(": >> d.pid") // programs that use flock(2) open the file before they have the lock
	if l := m.Locks()["d.pid"]; l.Kind != "pid-file" || l.Holder.PID != s.PID {
		t.Errorf("%+v", l)
	}
	s.Kill()
	harness.Eventually(t, "it is gone", func() bool { return !harness.Exists(m.Path("d.pid")) })
	m.MustRun(`echo 1 > other.pid; echo text > data.pid; : > empty.pid; test -s other.pid -a -s data.pid -a -e empty.pid`)
	if l := m.Locks(); len(l) != 0 {
		t.Errorf("ordinary files are locks: %+v", l)
	}
}

// TestWaitersOnAPIDFileExcludeEachOther runs processes that wait for a pid file by flock(2), and kills the holder
// that the file names. Processes that waited before and processes that come later still use the same file.
func TestWaitersOnAPIDFileExcludeEachOther(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "flock")
	m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	side := t.TempDir()
	for range 5 {
		s := m.StartScript(`exec 9<>d.pid; flock 9; echo $$ >&9; echo $$; while :; do sleep 1; done`)
		user := `exec 9<>d.pid; flock 9; mkdir ` + side + `/in || { echo two are inside; exit 1; }
			test "$(stat -Lc %i /dev/fd/9)" = "$(stat -c %i d.pid)" || { echo another file is at the name; exit 1; }
			echo $$ > d.pid; sleep 0.02; rmdir ` + side + `/in`
		results := make(chan string)
		run := func() {
			out, err := m.RunScript(user)
			if err != nil {
				out = fmt.Sprintf("%v: %s", err, out)
			}
			results <- out
		}
		for range 3 {
			go run()
		}
		harness.Eventually(t, "three wait", func() bool {
			for _, l := range m.List() {
				if l.Name == "d.pid" && l.ReclaimedAt == nil {
					return len(l.LockedBy) == 4
				}
			}
			return false
		})
		s.Kill()
		s.End()
		for range 3 {
			go run()
		}
		for range 6 {
			if result := <-results; result != "" {
				t.Error(result)
			}
		}
		m.MustRun("rm d.pid") // its last user exited with status 0 and left the file
	}
}

// TestChildCarriesOnWithTheDescriptor runs a program that locks, forks and exits.
func TestChildCarriesOnWithTheDescriptor(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, payload := range []string{`echo $$ >&3`, `true`, `echo data >&3`} {
		s := m.StartScript(`set -C; exec 3> x.lock; ` + payload + `; exec sleep 1000 & exec 3>&-; echo $!`)
		_ = s.Cmd.Wait()
		for range 20 {
			m.MustFail("cannot overwrite existing file", "set -C; : > x.lock")
			time.Sleep(time.Millisecond)
		}
		if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Rule != "descriptor" {
			t.Errorf("%s: %+v", payload, l)
		}
		m.MustRun("! rm x.lock 2>/dev/null")
		s.Kill()
		if payload == `echo $$ >&3` {
			harness.Eventually(t, "it is gone", func() bool { return !harness.Exists(m.Path("x.lock")) })
		} else {
			// Its creator was not killed, so the file settles.
			harness.Eventually(t, "it is no lock", func() bool { return len(m.Locks()) == 0 })
			m.MustRun("rm -f x.lock")
		}
		s.End()
	}
}

// TestKilledGitLeavesNoLock kills git while it has index.lock open. What git had written is kept in the state
// directory.
func TestKilledGitLeavesNoLock(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "git")
	harness.NeedProgram(t, "strace")
	m := harness.MountOver(t, t.TempDir())
	m.MustRun(`git init -q -b main .; echo 1 > a
		! strace -qq -f -o /dev/null -e trace=fsync -e inject=fsync:signal=KILL git -c core.fsync=index -c core.fsyncMethod=fsync add a 2>/dev/null`)
	harness.Eventually(t, "the lock is gone", func() bool { return !harness.Exists(m.Path(".git/index.lock")) })
	m.MustRun(`echo 2 > b; git add a b; git -c user.name=a -c user.email=a@example.org commit -qm x; git fsck --strict`)
	out, err := exec.Command(harness.Latchfs, "reclaimed", m.Dir).Output()
	if err != nil || !strings.Contains(string(out), ".git/index.lock") {
		t.Fatalf("%v: %s", err, out)
	}
	kept, err := filepath.Glob(filepath.Join(m.StateDir, "reclaimed", "*index.lock"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v %v", kept, err)
	}
	if text, err := os.ReadFile(kept[0]); err != nil || !strings.HasPrefix(string(text), "DIRC") {
		t.Errorf("kept %q %v", text, err)
	}
}

// TestCloseEndsALock checks that a lock with the attribute close is free once its live holder has closed it.
func TestCloseEndsALock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--lock-pattern", "*.lock", "--lock-pattern", "*.session.lock,close")
	s := m.StartScript(`mkfifo go; set -C; exec 3> a.session.lock 4> b.lock; echo $$ >&3; echo $$ >&4; echo $$; read x < go; exec 3>&- 4>&-; while :; do sleep 1; done`)
	m.MustFail("cannot overwrite existing file", "set -C; : > a.session.lock")
	m.MustRun("echo > go")
	harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("a.session.lock")) })
	m.MustFail("cannot overwrite existing file", "set -C; : > b.lock")
	if unix.Kill(s.PID, 0) != nil {
		t.Error("the script has ended")
	}
}

// TestHolderMapsItsLock checks that what the holder writes to a mapping of its lock arrives in the file, and that
// what other processes write does not.
func TestHolderMapsItsLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	const mapped = `import mmap, os
fd = os.open("x.lock", os.O_RDWR); text = mmap.mmap(fd, 4); text[0:4] = b"%s"
try: text.flush()
except OSError: pass
`
	s := m.StartScript(`set -C; echo note $$ > x.lock; /usr/bin/python3 -c '` + fmt.Sprintf(mapped, "mine") + `'; echo $$; while :; do sleep 1; done`)
	check := func() {
		t.Helper()
		if text, err := os.ReadFile(m.Path("x.lock")); err != nil || string(text) != fmt.Sprintf("mine %d\n", s.PID) {
			t.Errorf("%q %v", text, err)
		}
	}
	check()
	_, _ = m.RunScript(`/usr/bin/python3 -c '` + fmt.Sprintf(mapped, "evil") + `'`)
	check()
}
