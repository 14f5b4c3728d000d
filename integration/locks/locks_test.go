//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestShell takes a lock as shells do, contends for it, and is killed.
func TestShell(t *testing.T) {
	m := mountOver(t, t.TempDir())
	// Each shell is a child of a shell of its own, as in two terminals.
	holder := exec.Command("sh", "-c", `set -C; echo $$ > s.jsonl.lock && echo taken && exec sleep 1000`)
	holder.Dir = m.dir
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer holder.Process.Kill()
	answer := make([]byte, 6)
	if _, err := out.Read(answer); err != nil || string(answer) != "taken\n" {
		t.Fatalf("%q %v", answer, err)
	}

	for _, shell := range []struct{ program, says string }{{"bash", "cannot overwrite existing file"}, {"sh", "File exists"}} {
		contender := exec.Command(shell.program, "-c", `set -C; echo $$ > s.jsonl.lock`)
		contender.Dir = m.dir
		said, err := contender.CombinedOutput()
		if err == nil || !strings.Contains(string(said), shell.says) {
			t.Errorf("%s: %v: %s", shell.program, err, said)
		}
	}
	payload, err := os.ReadFile(m.path("s.jsonl.lock"))
	if want := fmt.Sprintln(holder.Process.Pid); err != nil || string(payload) != want {
		t.Errorf("payload %q %v, want %q", payload, err, want)
	}
	listed := m.locks()["s.jsonl.lock"]
	if listed.Verdict != "live" || listed.Holder.PID != holder.Process.Pid {
		t.Errorf("listed as %+v", listed)
	}

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	eventually(t, "the lock is gone with its holder", func() bool { return !exists(m.path("s.jsonl.lock")) })
	if listing, err := os.ReadDir(m.dir); err != nil || len(listing) != 0 {
		t.Errorf("still listed: %v %v", listing, err)
	}
	if kept, err := os.ReadDir(filepath.Join(m.stateDir, "reclaimed")); err != nil || len(kept) != 1 {
		t.Errorf("reclaimed: %v %v", kept, err)
	}
}

// TestFreeAtOnce kills holders and takes their lock with the very next system call.
func TestFreeAtOnce(t *testing.T) {
	m := mountOver(t, t.TempDir())
	next := newLocker(t)
	for range 50 {
		p := newLocker(t)
		p.must("ok", "take", m.path("x.lock"))
		next.must("EEXIST", "take", m.path("x.lock"))
		p.kill()
		next.must("ok", "take", m.path("x.lock"))
		next.must("ok", "remove", m.path("x.lock"))
	}
}

// TestLiveLockCannotBeTakenAway tries all that would.
func TestLiveLockCannotBeTakenAway(t *testing.T) {
	m := mountOver(t, t.TempDir())
	holder, other := newLocker(t), newLocker(t)
	lock, data := m.path("x.lock"), m.path("data")
	if err := os.WriteFile(data, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	holder.must("ok", "take", lock)
	for _, attempt := range [][]string{
		{"remove", lock}, {"truncate", lock}, {"overwrite", lock}, {"write", lock, "mine"},
		{"rename", lock, m.path("away")}, {"rename", lock, m.path("away.lock")}, {"rename", data, lock},
	} {
		other.must("EBUSY", attempt...)
	}
	other.must("EEXIST", "take", lock)
	if payload, err := os.ReadFile(lock); err != nil || string(payload) != fmt.Sprintln(holder.pid()) {
		t.Errorf("payload %q %v", payload, err)
	}
	refused := m.logged("refused")
	if len(refused) != 7 || !strings.HasPrefix(fmt.Sprint(refused[0]["caller"]), strconv.Itoa(other.pid())+"(") ||
		!strings.HasPrefix(fmt.Sprint(refused[0]["holder"]), strconv.Itoa(holder.pid())+"(") {
		t.Errorf("logged %v", refused)
	}
	holder.must("ok", "remove", lock)
	other.must("ok", "take", lock)
}

// TestFamilyMay: a child may remove its parent's lock, and a parent its child's.
func TestFamilyMay(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for _, script := range []string{
		`set -C; echo $$ > x.lock && rm x.lock && test ! -e x.lock`,
		`sh -c 'set -C; echo $$ > x.lock; exec sleep 1000' >/dev/null & child=$!
		 until test -s x.lock; do sleep 0.01; done
		 if rm x.lock 2>/dev/null; then echo "a sibling removed it"; kill -9 $child; exit 1; fi
		 perl -e 'unlink "x.lock" and die "so did another"'
		 : > x.lock || echo "the parent may not write"
		 kill -9 $child; wait`,
	} {
		shell := exec.Command("sh", "-c", script)
		shell.Dir = m.dir
		if said, err := shell.CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("%v: %s", err, said)
		}
	}
}

// TestHolderNamedByLauncher: a launcher writes the pid of the daemon that it has started and ends; the daemon
// holds.
func TestHolderNamedByLauncher(t *testing.T) {
	for how, launch := range map[string]string{
		"exclusively": "set -C; sleep 1000 >/dev/null 2>&1 & echo $! >d.lock", "in a pid file": "sleep 1000 >/dev/null 2>&1 & echo $! >d.lock",
		"twice": "set -C; sleep 1000 >/dev/null 2>&1 & echo $$ >d.lock; set +C; echo $! >d.lock",
	} {
		t.Run(how, func(t *testing.T) {
			m := mountOver(t, t.TempDir())
			launcher := exec.Command("sh", "-c", launch)
			launcher.Dir = m.dir
			if said, err := launcher.CombinedOutput(); err != nil || len(said) > 0 {
				t.Fatalf("%v: %s", err, said)
			}
			text, err := os.ReadFile(m.path("d.lock"))
			if err != nil {
				t.Fatal(err)
			}
			daemon, err := strconv.Atoi(strings.TrimSpace(string(text)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Kill(daemon, unix.SIGKILL) })
			other := newLocker(t)
			other.must("EEXIST", "take", m.path("d.lock"))
			other.must("EBUSY", "remove", m.path("d.lock"))
			if l := m.locks()["d.lock"]; l.Verdict != "live" || l.Holder.PID != daemon {
				t.Errorf("%+v", l)
			}
			if err := unix.Kill(daemon, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is free", func() bool { return !exists(m.path("d.lock")) })
		})
	}
}

// TestEmptyLock: killed between making the lock and writing into it, a holder leaves
// nothing; one that ends by itself leaves an ordinary file.
func TestEmptyLock(t *testing.T) {
	m := mountOver(t, t.TempDir())
	other := newLocker(t)
	killed := newLocker(t)
	killed.must("ok", "make", m.path("k.lock"))
	other.must("EEXIST", "take", m.path("k.lock"))
	other.must("EBUSY", "remove", m.path("k.lock"))
	killed.kill()
	other.must("ok", "take", m.path("k.lock"))

	ended := newLocker(t)
	ended.must("ok", "make", m.path("e.lock"))
	ended.exit()
	other.must("EEXIST", "take", m.path("e.lock"))
	eventually(t, "it is no lock any more", func() bool { _, held := m.locks()["e.lock"]; return !held })
	other.must("ok", "remove", m.path("e.lock"))
}

// TestInheritedDescriptor: the creator is killed while a child has the descriptor.
func TestInheritedDescriptor(t *testing.T) {
	m := mountOver(t, t.TempDir())
	other := newLocker(t)
	shell := exec.Command("sh", "-c", `set -C; exec 3> x.lock; echo $$ >&3; sleep 1000 >/dev/null 2>&1 & echo $!; wait`)
	shell.Dir = m.dir
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	var child int
	if _, err := fmt.Fscan(out, &child); err != nil {
		t.Fatal(err)
	}
	if err := shell.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = shell.Process.Wait()
	for range 20 {
		other.must("EEXIST", "take", m.path("x.lock"))
		time.Sleep(time.Millisecond)
	}
	signal(t, child, unix.SIGKILL)
	eventually(t, "the lock is free", func() bool { return other.do("take", m.path("x.lock")) == "ok" })
}

// TestStoppedHolderIsLive: a holder that does not run is still there.
func TestStoppedHolderIsLive(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--stale-after", "1ms")
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	signal(t, holder.pid(), unix.SIGSTOP)
	other.must("EEXIST", "take", m.path("x.lock"))
	other.must("EBUSY", "remove", m.path("x.lock"))
}

// TestDirectoryRename carries the locks beneath along, over a restart too.
func TestDirectoryRename(t *testing.T) {
	m := mountOver(t, t.TempDir())
	holder, other := newLocker(t), newLocker(t)
	if err := os.MkdirAll(m.path("a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	holder.must("ok", "take", m.path("a/b/x.lock"))
	if err := os.Rename(m.path("a"), m.path("c")); err != nil {
		t.Fatal(err)
	}
	other.must("EEXIST", "take", m.path("c/b/x.lock"))
	other.must("EBUSY", "remove", m.path("c/b/x.lock"))
	m.kill()
	m.start()
	other.must("EBUSY", "remove", m.path("c/b/x.lock"))
	if l := m.locks()["c/b/x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.pid() {
		t.Errorf("%+v", m.locks())
	}
	holder.must("ok", "remove", m.path("c/b/x.lock"))
	other.must("ok", "take", m.path("c/b/x.lock"))
}

// TestLockCycleRequests counts what the kernel asks for in a lock cycle: LOOKUP, CREATE,
// WRITE and UNLINK while the caller waits. With default_permissions it also asks for
// the directory's attributes after each change of it (fuse_permission). At a name that is not known to be
// that of a lock it tells of the close too (FLUSH).
func TestLockCycleRequests(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--log-level", "trace")
	holder := newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	holder.must("ok", "remove", m.path("x.lock"))
	before := len(m.allLog())
	if !strings.Contains(m.allLog(), `"msg":"rx `) || !strings.Contains(m.allLog(), "FLUSH") {
		t.Error("the close of a file that may be data was not told")
	}
	holder.must("ok", "take", m.path("x.lock"))
	holder.must("ok", "remove", m.path("x.lock"))
	var requests []string
	eventually(t, "the UNLINK is logged", func() bool {
		requests = nil
		for line := range strings.Lines(m.allLog()[before:]) {
			if _, rest, ok := strings.Cut(line, `"msg":"rx `); ok {
				words := strings.Fields(rest)
				if len(words) < 3 || words[1] == "RELEASE" || words[1] == "FORGET" || words[1] == "GETATTR" && words[2] == "n1" {
					continue
				}
				requests = append(requests, words[1])
			}
		}
		return strings.Contains(strings.Join(requests, " "), "UNLINK")
	})
	if got := strings.Join(requests, " "); got != "LOOKUP CREATE WRITE UNLINK" {
		t.Errorf("the kernel asked %s", got)
	}
}

// TestLockCycleAllocations counts what the server allocates in a lock cycle.
func TestLockCycleAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	m := mountOver(t, t.TempDir(), "--log-level", "warning")
	holder := newLocker(t)
	allocated := func() (objects, bytes float64) {
		text, err := os.ReadFile(m.path(".latchfs/metrics"))
		if err != nil {
			t.Fatal(err)
		}
		samples := metrics(t, text)
		return samples["go_memstats_mallocs_total"], samples["go_memstats_alloc_bytes_total"]
	}
	holder.must("ok", "cycle", m.path("x.lock"), "100")
	objects, bytes := allocated()
	const cycles = 3000
	holder.must("ok", "cycle", m.path("x.lock"), strconv.Itoa(cycles))
	objectsAfter, bytesAfter := allocated()
	each, bytesEach := (objectsAfter-objects)/cycles, (bytesAfter-bytes)/cycles
	t.Logf("%.1f allocations of %.0f bytes", each, bytesEach)
	if each > 40 || bytesEach > 2048 {
		t.Errorf("a lock cycle allocates %.1f objects, %.0f bytes", each, bytesEach)
	}
}

// TestGoneForStat kills holders and looks with stat(2), as shells do before they create,
// with the very next system call, while the kernel has the entry cached.
func TestGoneForStat(t *testing.T) {
	m := mountOver(t, t.TempDir())
	for i := range 100 {
		p := newLocker(t)
		p.must("ok", "take", m.path("x.lock"))
		time.Sleep(30 * time.Millisecond) // attributes from the creation are cached no longer
		if !exists(m.path("x.lock")) {
			t.Fatal("a live lock is not there")
		}
		p.kill()
		if exists(m.path("x.lock")) {
			t.Fatalf("the lock was there after its holder's death, round %d", i)
		}
	}
}
