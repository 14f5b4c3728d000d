//go:build linux

package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start runs a script in the mount in a session of its own and returns once it has printed a
// line, which is the pid of what holds.
func (m *mount) startScript(script string) *scripted {
	m.t.Helper()
	s := &scripted{t: m.t, cmd: exec.Command("bash", "-c", script)}
	s.cmd.Dir = m.dir
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(s.end)
	s.out = bufio.NewReader(out)
	if _, err := fmt.Fscanln(s.out, &s.pid); err != nil {
		m.t.Fatalf("%s: did not say who holds: %v", script, err)
	}
	return s
}

type scripted struct {
	t   *testing.T
	cmd *exec.Cmd
	out *bufio.Reader
	pid int
}

// kill ends what holds and returns once it has.
func (s *scripted) kill() {
	s.t.Helper()
	end(s.t, s.pid, unix.SIGKILL)
}

// end ends all of it.
func (s *scripted) end() {
	group := -s.cmd.Process.Pid
	_ = unix.Kill(group, unix.SIGKILL)
	_ = s.cmd.Wait()
	eventually(s.t, "all its processes have ended", func() bool { return unix.Kill(group, unix.SIGKILL) != nil })
}

// another runs a script in the mount that is no relative of any other, and says how it went.
func (m *mount) another(script string) (string, error) {
	cmd := exec.Command("bash", "-ec", script)
	cmd.Dir = m.dir
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *mount) mustFail(says, script string) {
	m.t.Helper()
	if out, err := m.another(script); err == nil || !strings.Contains(out, says) {
		m.t.Errorf("%s: %v, said %q, not %q", script, err, out, says)
	}
}

func (m *mount) mustDo(script string) {
	m.t.Helper()
	if out, err := m.another(script); err != nil {
		m.t.Errorf("%s: %v: %s", script, err, out)
	}
}

// TestScriptHoldsItsLockDirectory: mkdir(1) has ended, the script that ran it holds.
func TestScriptHoldsItsLockDirectory(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for _, script := range []string{
		`mkdir x.lock && echo $$; while :; do sleep 1; done`,
		`(mkdir x.lock) && echo $$; while :; do sleep 1; done`,    // by way of a subshell
		`x=$(mkdir x.lock) && echo $$; while :; do sleep 1; done`, // and of another
		`mkdir x.lock; echo $$ > x.lock/pid; echo $$; while :; do sleep 1; done`,
		`mkdir x.lock; date > /dev/null; touch x.lock/empty; echo $$; while :; do sleep 1; done`,
	} {
		s := m.startScript(script)
		m.mustFail("File exists", "mkdir x.lock")
		m.mustFail("Device or resource busy", "rmdir x.lock")
		m.mustFail("Device or resource busy", "touch x.lock/mine")
		m.mustFail("Device or resource busy", "mv x.lock away")
		m.mustFail("Device or resource busy", "mkdir dir; mv -T dir x.lock || { rmdir dir; false; }")
		if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.pid || l.Kind != "mkdir" {
			t.Errorf("%s: %+v", script, l)
		}
		s.kill()
		m.mustDo("mkdir x.lock; rmdir x.lock")
		s.end()
	}
	m.mustDo(`mkdir x.lock; echo $$ > x.lock/pid; touch x.lock/more; rm -r x.lock; ! test -e x.lock`)
	m.mustDo(`mkdir x.lock; trap 'rm -rf x.lock' EXIT; echo $$ > x.lock/pid`)
	if exists(m.path("x.lock")) {
		t.Error("a trap did not remove the lock")
	}
}

// TestLinksAndRenames: the other ways of making a name exclusively.
func TestLinksAndRenames(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--lock-pattern", "*.lock", "--lock-pattern", "Singleton*")
	for kind, take := range map[string]string{
		"symlink": `ln -s $$ x.lock`,
		"link":    `echo $$ > t; ln t x.lock; test $(stat -c %h x.lock) = 2; rm t; test $(stat -c %h x.lock) = 1`,
		"rename":  `echo $$ > t; mv t x.lock`,
		"create":  `set -C; echo $$ > x.lock`,
	} {
		s := m.startScript(`set -e; ` + take + `; echo $$; while :; do sleep 1; done`)
		m.mustFail("File exists", "ln -s 1 x.lock")
		m.mustFail("File exists", "echo 1 > t2; ln t2 x.lock || { rm t2; false; }")
		m.mustFail("cannot overwrite existing file", "set -C; echo 1 > x.lock")
		m.mustFail("Device or resource busy", "echo 1 > t3; mv t3 x.lock || { rm t3; false; }")
		m.mustFail("Device or resource busy", "rm x.lock")
		if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.pid || l.Kind != kind {
			t.Errorf("%s: %+v", kind, l)
		}
		s.kill()
		m.mustDo("set -C; echo $$ > x.lock; rm x.lock")
		s.end()
	}
	s := m.startScript(`ln -s "$(hostname)-$$" SingletonLock; echo $$; while :; do sleep 1; done`)
	m.mustFail("Device or resource busy", "rm SingletonLock")
	s.kill()
	m.mustDo(`ln -s a-1 SingletonLock; test "$(readlink SingletonLock)" = a-1`)
	m.mustDo(`ln -s ../elsewhere data.lock; echo text > t; ln t data2.lock; mv t data3.lock; mkdir -p d.lock/texts`)
	if locks := m.locks(); len(locks) != 0 {
		t.Errorf("data are locks: %+v", locks)
	}
	var settled []string
	for _, l := range m.listed() {
		if l.Verdict == "settled" && l.Payload == "data" {
			settled = append(settled, l.Name)
		}
	}
	if want := []string{"SingletonLock", "d.lock", "data.lock", "data2.lock", "data3.lock"}; !slices.Equal(settled, want) {
		t.Errorf("settled %v, want %v", settled, want)
	}
}

// TestHolderStaysWhenItsFamilyReplaces: as git's hooks rename index.lock.lock over index.lock.
func TestHolderStaysWhenItsFamilyReplaces(t *testing.T) {
	m := mountOver(t, t.TempDir())
	s := m.startScript(`set -C; echo $$ > x.lock; bash -c 'set -C; echo '$$' > x.lock.lock; mv x.lock.lock x.lock'; echo $$; while :; do sleep 1; done`)
	m.mustFail("Device or resource busy", "rm x.lock")
	if l := m.locks(); len(l) != 1 || l["x.lock"].Holder.PID != s.pid {
		t.Errorf("%+v", l)
	}
	s.kill()
	m.mustDo("set -C; echo $$ > x.lock; rm x.lock")
}

// TestDaemonNamedByItsLauncher: it holds once the launcher has ended, through a pid
// namespace of its own too.
func TestDaemonNamedByItsLauncher(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for name, launch := range map[string]string{
		"create":  `setsid sleep 1000 & echo $! > x.lock; echo $!`,
		"mkdir":   `setsid sleep 1000 & mkdir x.lock; echo '{"pid":'$!'}' > x.lock/owner.json; echo $!`,
		"symlink": `setsid sleep 1000 & ln -s $! x.lock; echo $!`,
	} {
		s := m.startScript("set -C; exec </dev/null 2>/dev/null; " + launch)
		_ = s.cmd.Wait()
		eventually(t, "the daemon holds", func() bool { return m.locks()["x.lock"].Holder.PID == s.pid })
		m.mustFail("Device or resource busy", "rm -r x.lock")
		s.kill()
		if exists(m.path("x.lock")) {
			t.Errorf("%s: it is there after the daemon's death", name)
		}
		m.mustDo("mkdir x.lock; rmdir x.lock")
	}
}

// TestPIDFileIsHeld: an ordinary file that names who wrote it has a holder.
func TestPIDFileIsHeld(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	s := m.startScript(`echo $$ > d.pid; echo $$; while :; do sleep 1; done`)
	m.mustFail("Device or resource busy", "rm d.pid")
	m.mustFail("Device or resource busy", "echo 1 > t; mv t d.pid || { rm t; false; }")
	m.mustDo(": >> d.pid") // those who flock it open it before they know
	if l := m.locks()["d.pid"]; l.Kind != "pid-file" || l.Holder.PID != s.pid {
		t.Errorf("%+v", l)
	}
	s.kill()
	eventually(t, "it is gone", func() bool { return !exists(m.path("d.pid")) })
	m.mustDo(`echo 1 > other.pid; echo text > data.pid; : > empty.pid; test -s other.pid -a -s data.pid -a -e empty.pid`)
	if l := m.locks(); len(l) != 0 {
		t.Errorf("ordinary files are locks: %+v", l)
	}
}

// TestWaitersOnAPIDFileExcludeEachOther: they wait with flock(2); its holder, named in it, is
// killed; those who waited and those who come then still have one file.
func TestWaitersOnAPIDFileExcludeEachOther(t *testing.T) {
	needProgram(t, "flock")
	m := mountOver(t, t.TempDir(), "--lock-pattern", "*.pid")
	side := t.TempDir()
	for range 5 {
		s := m.startScript(`exec 9<>d.pid; flock 9; echo $$ >&9; echo $$; while :; do sleep 1; done`)
		user := `exec 9<>d.pid; flock 9; mkdir ` + side + `/in || { echo two are inside; exit 1; }
			test "$(stat -Lc %i /dev/fd/9)" = "$(stat -c %i d.pid)" || { echo another file is at the name; exit 1; }
			echo $$ > d.pid; sleep 0.02; rmdir ` + side + `/in`
		results := make(chan string)
		run := func() {
			out, err := m.another(user)
			if err != nil {
				out = fmt.Sprintf("%v: %s", err, out)
			}
			results <- out
		}
		for range 3 {
			go run()
		}
		eventually(t, "three wait", func() bool {
			for _, l := range m.listed() {
				if l.Name == "d.pid" && l.ReclaimedAt == nil {
					return len(l.LockedBy) == 4
				}
			}
			return false
		})
		s.kill()
		s.end()
		for range 3 {
			go run()
		}
		for range 6 {
			if result := <-results; result != "" {
				t.Error(result)
			}
		}
		m.mustDo("rm d.pid") // its last user ended with status 0 and left it
	}
}

// TestChildCarriesOnWithTheDescriptor: a program locks, forks and ends of itself.
func TestChildCarriesOnWithTheDescriptor(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for _, payload := range []string{`echo $$ >&3`, `true`, `echo data >&3`} {
		s := m.startScript(`set -C; exec 3> x.lock; ` + payload + `; exec sleep 1000 & exec 3>&-; echo $!`)
		_ = s.cmd.Wait()
		for range 20 {
			m.mustFail("cannot overwrite existing file", "set -C; : > x.lock")
			time.Sleep(time.Millisecond)
		}
		if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Rule != "descriptor" {
			t.Errorf("%s: %+v", payload, l)
		}
		m.mustDo("! rm x.lock 2>/dev/null")
		s.kill()
		if payload == `echo $$ >&3` {
			eventually(t, "it is gone", func() bool { return !exists(m.path("x.lock")) })
		} else {
			// Nobody was killed who had made it: it settles.
			eventually(t, "it is no lock", func() bool { return len(m.locks()) == 0 })
			m.mustDo("rm -f x.lock")
		}
		s.end()
	}
}

// TestKilledGitLeavesNoLock: while it has index.lock open; what it had written is kept.
func TestKilledGitLeavesNoLock(t *testing.T) {
	needProgram(t, "git")
	needProgram(t, "strace")
	m := mountOver(t, t.TempDir())
	m.mustDo(`git init -q -b main .; echo 1 > a
		! strace -qq -f -o /dev/null -e trace=fsync -e inject=fsync:signal=KILL git -c core.fsync=index -c core.fsyncMethod=fsync add a 2>/dev/null`)
	eventually(t, "the lock is gone", func() bool { return !exists(m.path(".git/index.lock")) })
	m.mustDo(`echo 2 > b; git add a b; git -c user.name=a -c user.email=a@example.org commit -qm x; git fsck --strict`)
	out, err := exec.Command(latchfs, "reclaimed", m.dir).Output()
	if err != nil || !strings.Contains(string(out), ".git/index.lock") {
		t.Fatalf("%v: %s", err, out)
	}
	kept, err := filepath.Glob(filepath.Join(m.stateDir, "reclaimed", "*index.lock"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v %v", kept, err)
	}
	if text, err := os.ReadFile(kept[0]); err != nil || !strings.HasPrefix(string(text), "DIRC") {
		t.Errorf("kept %q %v", text, err)
	}
}

// TestCloseEndsALock: a lock that a living process forgot is not stuck.
func TestCloseEndsALock(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--lock-pattern", "*.lock", "--lock-pattern", "*.session.lock,close")
	s := m.startScript(`mkfifo go; set -C; exec 3> a.session.lock 4> b.lock; echo $$ >&3; echo $$ >&4; echo $$; read x < go; exec 3>&- 4>&-; while :; do sleep 1; done`)
	m.mustFail("cannot overwrite existing file", "set -C; : > a.session.lock")
	m.mustDo("echo > go")
	eventually(t, "it is free", func() bool { return !exists(m.path("a.session.lock")) })
	m.mustFail("cannot overwrite existing file", "set -C; : > b.lock")
	if unix.Kill(s.pid, 0) != nil {
		t.Error("the script has ended")
	}
}

// TestOperators release what others hold, by force, and say so in the log.
func TestOperators(t *testing.T) {
	m := mountOver(t, testDir(t))
	if err := os.Chmod(m.dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := m.startScript(`mkdir sub; set -C; echo $$ > sub/x.lock; echo $$; while :; do sleep 1; done`)
	lock := m.path("sub/x.lock")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"release", lock}, 9, "its holder lives"},
		{[]string{"release", m.path("none.lock")}, 1, "no lock of that name"},
		{[]string{"release", "/x.lock"}, 4, "not in a latchfs mount"},
		{[]string{"release"}, 2, "usage"},
	} {
		if code, said := run(t, nil, c.args...); code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%v: exit code %d: %s", c.args, code, said)
		}
	}
	out, err := exec.Command("setpriv", "--reuid=1002", "--regid=1002", "--clear-groups", latchfs, "release", "--force", lock).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "only root") {
		t.Errorf("%v: %s", err, out)
	}
	if code, said := run(t, nil, "release", "--force", lock); code != 0 || exists(lock) {
		t.Errorf("exit code %d: %s", code, said)
	}
	if logged := m.logged("an operator released a lock"); len(logged) != 1 || !strings.HasPrefix(fmt.Sprint(logged[0]["holder"]), strconv.Itoa(s.pid)+"(") {
		t.Errorf("logged %v", logged)
	}
	out, err = exec.Command(latchfs, "reclaimed", m.dir).Output()
	if said := string(out); err != nil || !strings.Contains(said, "sub/x.lock") || !strings.Contains(said, "released") {
		t.Errorf("%v: %s", err, said)
	}
}

// TestHolderMapsItsLock: what it writes to a mapping of it gets there; what others write does not.
func TestHolderMapsItsLock(t *testing.T) {
	m := mountOver(t, t.TempDir())
	const mapped = `import mmap, os
fd = os.open("x.lock", os.O_RDWR); text = mmap.mmap(fd, 4); text[0:4] = b"%s"
try: text.flush()
except OSError: pass
`
	s := m.startScript(`set -C; echo note $$ > x.lock; /usr/bin/python3 -c '` + fmt.Sprintf(mapped, "mine") + `'; echo $$; while :; do sleep 1; done`)
	check := func() {
		t.Helper()
		if text, err := os.ReadFile(m.path("x.lock")); err != nil || string(text) != fmt.Sprintf("mine %d\n", s.pid) {
			t.Errorf("%q %v", text, err)
		}
	}
	check()
	_, _ = m.another(`/usr/bin/python3 -c '` + fmt.Sprintf(mapped, "evil") + `'`)
	check()
}
