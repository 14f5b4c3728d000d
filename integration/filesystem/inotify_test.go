//go:build linux

package integration

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch begins to watch a path with inotify(7) and returns its events, as names and masks, until the end of the test.
func watch(t *testing.T, path string, mask uint32) <-chan string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) // so that Close ends Read
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, mask|unix.IN_DONT_FOLLOW); err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 10_000)
	file := os.NewFile(uintptr(fd), "inotify")
	done := make(chan struct{})
	t.Cleanup(func() { file.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		for {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
				e := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
				name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:][:e.Len]), "\x00")
				what := ""
				for bit, word := range map[uint32]string{unix.IN_DELETE: "delete ", unix.IN_DELETE_SELF: "delete_self ", unix.IN_CREATE: "create "} {
					if e.Mask&bit != 0 {
						what += word
					}
				}
				events <- what + name
				rest = rest[unix.SizeofInotifyEvent+int(e.Len):]
			}
		}
	}()
	return events
}

// heard waits for an event and returns those before it.
func heard(t *testing.T, events <-chan string, want string) (before []string) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e == want {
				return before
			}
			before = append(before, e)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not heard, but %q", want, before)
		}
	}
}

// TestInotify: who watches a directory, or a lock in it, hears that the lock was removed because its holder has died, or by
// an operator.
func TestInotify(t *testing.T) {
	m := mountOver(t, t.TempDir())
	if err := os.Mkdir(m.path("sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, how := range []struct{ name, file string }{{"take", "x.lock"}, {"mkdir", "d.lock"}, {"symlink", "l.lock"}, {"take", "sub/x.lock"}} {
		holder := newLocker(t)
		words := []string{how.name, m.path(how.file)}
		if how.name == "symlink" {
			host, _ := os.Hostname()
			words = append(words, fmt.Sprintf("%s:%d", host, holder.pid()))
		}
		directory := watch(t, filepath.Dir(m.path(how.file)), unix.IN_DELETE)
		holder.must("ok", words...)
		file := watch(t, m.path(how.file), unix.IN_DELETE_SELF)
		holder.kill()
		heard(t, directory, "delete "+filepath.Base(how.file))
		if how.name != "symlink" {
			heard(t, file, "delete_self ")
		}
		if exists(m.path(how.file)) {
			t.Errorf("%s is still there", how.file)
		}
	}
	holder := newLocker(t)
	holder.must("ok", "take", m.path("y.lock"))
	directory := watch(t, m.dir, unix.IN_DELETE)
	if out, err := exec.Command(latchfs, "release", "--force", m.path("y.lock")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	heard(t, directory, "delete y.lock")
}

// TestInotifyPrograms: those that people use are told too.
func TestInotifyPrograms(t *testing.T) {
	needProgram(t, "inotifywait")
	needProgram(t, "node")
	m := mountOver(t, t.TempDir())
	for _, words := range [][]string{
		{"inotifywait", "-q", "-e", "delete", m.dir},
		{"node", "-e", `const w = require('fs').watch(process.argv[1], (_, name) => { if (name === 'x.lock' && !require('fs').existsSync(process.argv[1] + '/x.lock')) { console.log(name); w.close() } })`, m.dir},
	} {
		holder := newLocker(t)
		holder.must("ok", "take", m.path("x.lock"))
		cmd := exec.Command(words[0], words[1:]...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, words[0]+" watches", func() bool { return watchesInotify(cmd.Process.Pid) })
		holder.kill()
		line, _ := bufio.NewReader(out).ReadString('\n')
		if !strings.Contains(line, "x.lock") {
			t.Errorf("%s said %q", words[0], line)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", words[0], err)
		}
	}
}

// watchesInotify says that a process has an inotify watch (proc_pid_fdinfo(5)).
func watchesInotify(pid int) bool {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	for _, file := range files {
		if text, _ := os.ReadFile(file); strings.Contains(string(text), "inotify wd:") {
			return true
		}
	}
	return false
}

// TestNotifierTakesNothing: a name that was made anew at once, as a lock or as data, stays, however often the one before it
// was reaped.
func TestNotifierTakesNothing(t *testing.T) {
	m := mountOver(t, t.TempDir())
	next := newLocker(t)
	created := watch(t, m.dir, unix.IN_CREATE|unix.IN_DELETE)
	for round := range 150 {
		holder := newLocker(t)
		holder.must("ok", "take", m.path("x.lock"))
		holder.kill()
		if round%2 == 0 {
			eventually(t, "the name is free", func() bool { return next.do("take", m.path("x.lock")) == "ok" })
		} else {
			eventually(t, "the name is free", func() bool { return !exists(m.path("x.lock")) })
			if err := os.WriteFile(m.path("x.lock"), []byte("data that nobody may lose"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		// Another lock is reaped after it, and told of after it.
		last := newLocker(t)
		last.must("ok", "take", m.path("last.lock"))
		last.kill()
		heard(t, created, "delete last.lock")
		if !exists(m.path("x.lock")) {
			t.Fatalf("round %d: what was made at the name is gone", round)
		}
		if err := os.Remove(m.path("x.lock")); err != nil { // as an ancestor of its holder
			t.Fatal(err)
		}
	}
}

// TestNotifierOfDeadServer: one whose server was killed is waited for.
func TestNotifierOfDeadServer(t *testing.T) {
	m := mountOver(t, t.TempDir())
	directory := watch(t, m.dir, unix.IN_DELETE)
	holder := newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	holder.kill()
	heard(t, directory, "delete x.lock") // so there is a notifier
	m.killServer()
	m.eventuallyServed()
	eventually(t, "no child of the keeper is a zombie", func() bool {
		return !slices.ContainsFunc(children(m.process.Process.Pid), ended)
	})
}
