//go:build linux

package filesystem

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestInotify checks that a watch on a directory, or on a lock in it, reports the removal of a lock whose holder
// has died, or that an operator released.
func TestInotify(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	if err := os.Mkdir(m.Path("sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, how := range []struct{ name, file string }{{"take", "x.lock"}, {"mkdir", "d.lock"}, {"symlink", "l.lock"}, {"take", "sub/x.lock"}} {
		holder := harness.StartProcess(t)
		words := []string{how.name, m.Path(how.file)}
		if how.name == "symlink" {
			host, _ := os.Hostname()
			words = append(words, fmt.Sprintf("%s:%d", host, holder.PID()))
		}
		directory := harness.WatchInotify(t, filepath.Dir(m.Path(how.file)), unix.IN_DELETE)
		holder.Must("ok", words...)
		file := harness.WatchInotify(t, m.Path(how.file), unix.IN_DELETE_SELF)
		holder.Kill()
		harness.WaitForInotify(t, directory, "delete "+filepath.Base(how.file))
		if how.name != "symlink" {
			harness.WaitForInotify(t, file, "delete_self ")
		}
		if harness.Exists(m.Path(how.file)) {
			t.Errorf("%s is still there", how.file)
		}
	}
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("y.lock"))
	directory := harness.WatchInotify(t, m.Dir, unix.IN_DELETE)
	if out, err := exec.Command(harness.Latchfs, "release", "--force", m.Path("y.lock")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	harness.WaitForInotify(t, directory, "delete y.lock")
}

// TestInotifyPrograms checks that common programs with inotify report it too.
func TestInotifyPrograms(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "inotifywait")
	harness.NeedProgram(t, "node")
	m := harness.MountOver(t, t.TempDir())
	for _, words := range [][]string{
		{"inotifywait", "-q", "-e", "delete", m.Dir},
		{"node", "-e", `const w = require('fs').watch(process.argv[1], (_, name) => { if (name === 'x.lock' && !require('fs').existsSync(process.argv[1] + '/x.lock')) { console.log(name); w.close() } })`, m.Dir},
	} {
		holder := harness.StartProcess(t)
		holder.Must("ok", "take", m.Path("x.lock"))
		cmd := exec.Command(words[0], words[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		harness.Eventually(t, words[0]+" watches", func() bool { return watchesInotify(cmd.Process.Pid) })
		holder.Kill()
		line, _ := bufio.NewReader(out).ReadString('\n')
		if !strings.Contains(line, "x.lock") {
			t.Errorf("%s said %q", words[0], line)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", words[0], err)
		}
	}
}

// watchesInotify reports whether a process has an inotify watch (proc_pid_fdinfo(5)).
func watchesInotify(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, file := range files {
		if text, _ := os.ReadFile(file); strings.Contains(string(text), "inotify wd:") {
			return true
		}
	}
	return false
}

// TestNotifierTakesNothing checks that a name that is recreated at once, as a lock or as data, stays, however
// often the lock before it was reaped.
func TestNotifierTakesNothing(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	next := harness.StartProcess(t)
	created := harness.WatchInotify(t, m.Dir, unix.IN_CREATE|unix.IN_DELETE)
	for round := range 150 {
		holder := harness.StartProcess(t)
		holder.Must("ok", "take", m.Path("x.lock"))
		holder.Kill()
		if round%2 == 0 {
			harness.Eventually(t, "the name is free", func() bool { return next.Do("take", m.Path("x.lock")) == "ok" })
		} else {
			harness.Eventually(t, "the name is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
			if err := os.WriteFile(m.Path("x.lock"), []byte("data that nobody may lose"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// The notifier reports a lock that is reaped later after the first one.
		last := harness.StartProcess(t)
		last.Must("ok", "take", m.Path("last.lock"))
		last.Kill()
		harness.WaitForInotify(t, created, "delete last.lock")
		if !harness.Exists(m.Path("x.lock")) {
			t.Fatalf("round %d: what was made at the name is gone", round)
		}
		if err := os.Remove(m.Path("x.lock")); err != nil { // the test is an ancestor of the holder
			t.Fatal(err)
		}
	}
}

// TestNotifierOfDeadServer checks that a process waits for the notifier of a server that was killed.
func TestNotifierOfDeadServer(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	directory := harness.WatchInotify(t, m.Dir, unix.IN_DELETE)
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	holder.Kill()
	harness.WaitForInotify(t, directory, "delete x.lock") // so the notifier runs
	m.KillServer()
	m.WaitUntilServed()
	harness.Eventually(t, "no child of the keeper is a zombie", func() bool {
		return !slices.ContainsFunc(harness.Children(m.Keeper.Process.Pid), harness.HasEnded)
	})
}
