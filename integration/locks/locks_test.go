//go:build linux

package locks

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

	"latchfs/integration/harness"
)

// TestShell takes a lock as shells do, contends for it from other shells, and kills the holder.
func TestShell(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	// Each shell is the child of another shell, as in two terminals.
	holder := exec.Command("sh", "-c", `set -C; echo $$ > s.jsonl.lock && echo taken && exec sleep 1000`)
	holder.Dir = m.Dir
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
		contender.Dir = m.Dir
		said, err := contender.CombinedOutput()
		if err == nil || !strings.Contains(string(said), shell.says) {
			t.Errorf("%s: %v: %s", shell.program, err, said)
		}
	}
	payload, err := os.ReadFile(m.Path("s.jsonl.lock"))
	if want := fmt.Sprintln(holder.Process.Pid); err != nil || string(payload) != want {
		t.Errorf("payload %q %v, want %q", payload, err, want)
	}
	listed := m.Locks()["s.jsonl.lock"]
	if listed.Verdict != "live" || listed.Holder.PID != holder.Process.Pid {
		t.Errorf("listed as %+v", listed)
	}

	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	harness.Eventually(t, "the lock is gone with its holder", func() bool { return !harness.Exists(m.Path("s.jsonl.lock")) })
	if listing, err := os.ReadDir(m.Dir); err != nil || len(listing) != 0 {
		t.Errorf("still listed: %v %v", listing, err)
	}
	if kept, err := os.ReadDir(filepath.Join(m.StateDir, "reclaimed")); err != nil || len(kept) != 1 {
		t.Errorf("reclaimed: %v %v", kept, err)
	}
}

// TestFreeAtOnce kills holders and takes their lock with the very next system call.
func TestFreeAtOnce(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	next := harness.StartProcess(t)
	for range 50 {
		p := harness.StartProcess(t)
		p.Must("ok", "take", m.Path("x.lock"))
		next.Must("EEXIST", "take", m.Path("x.lock"))
		p.Kill()
		next.Must("ok", "take", m.Path("x.lock"))
		next.Must("ok", "remove", m.Path("x.lock"))
	}
}

// TestLiveLockCannotBeTakenAway tries every system call that would take a lock away from its holder.
func TestLiveLockCannotBeTakenAway(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	lock, data := m.Path("x.lock"), m.Path("data")
	if err := os.WriteFile(data, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	holder.Must("ok", "take", lock)
	for _, attempt := range [][]string{
		{"remove", lock}, {"truncate", lock}, {"overwrite", lock}, {"write", lock, "mine"},
		{"rename", lock, m.Path("away")}, {"rename", lock, m.Path("away.lock")}, {"rename", data, lock},
	} {
		other.Must("EBUSY", attempt...)
	}
	other.Must("EEXIST", "take", lock)
	if payload, err := os.ReadFile(lock); err != nil || string(payload) != fmt.Sprintln(holder.PID()) {
		t.Errorf("payload %q %v", payload, err)
	}
	refused := m.Logged("refused")
	if len(refused) != 7 || !strings.HasPrefix(fmt.Sprint(refused[0]["caller"]), strconv.Itoa(other.PID())+"(") ||
		!strings.HasPrefix(fmt.Sprint(refused[0]["holder"]), strconv.Itoa(holder.PID())+"(") {
		t.Errorf("logged %v", refused)
	}
	holder.Must("ok", "remove", lock)
	other.Must("ok", "take", lock)
}

// TestFamilyMay checks that a child may remove its parent's lock, and a parent its child's.
func TestFamilyMay(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
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
		shell.Dir = m.Dir
		if said, err := shell.CombinedOutput(); err != nil || len(said) > 0 {
			t.Errorf("%v: %s", err, said)
		}
	}
}

// TestEmptyLock checks a holder that has not yet written into its lock. If the holder is killed, the lock goes. If
// it exits, an ordinary file is left.
func TestEmptyLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	other := harness.StartProcess(t)
	killed := harness.StartProcess(t)
	killed.Must("ok", "make", m.Path("k.lock"))
	other.Must("EEXIST", "take", m.Path("k.lock"))
	other.Must("EBUSY", "remove", m.Path("k.lock"))
	killed.Kill()
	other.Must("ok", "take", m.Path("k.lock"))

	ended := harness.StartProcess(t)
	ended.Must("ok", "make", m.Path("e.lock"))
	ended.Exit()
	other.Must("EEXIST", "take", m.Path("e.lock"))
	harness.Eventually(t, "it is no lock any more", func() bool { _, held := m.Locks()["e.lock"]; return !held })
	other.Must("ok", "remove", m.Path("e.lock"))
}

// TestInheritedDescriptor kills the creator of a lock while its child has the descriptor.
func TestInheritedDescriptor(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	other := harness.StartProcess(t)
	shell := exec.Command("sh", "-c", `set -C; exec 3> x.lock; echo $$ >&3; sleep 1000 >/dev/null 2>&1 & echo $!; wait`)
	shell.Dir = m.Dir
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
		other.Must("EEXIST", "take", m.Path("x.lock"))
		time.Sleep(time.Millisecond)
	}
	harness.Signal(t, child, unix.SIGKILL)
	harness.Eventually(t, "the lock is free", func() bool { return other.Do("take", m.Path("x.lock")) == "ok" })
}

// TestStoppedHolderIsLive checks that a stopped holder keeps its lock however old it is.
func TestStoppedHolderIsLive(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--stale-after", "1ms")
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	harness.Signal(t, holder.PID(), unix.SIGSTOP)
	other.Must("EEXIST", "take", m.Path("x.lock"))
	other.Must("EBUSY", "remove", m.Path("x.lock"))
}

// TestDirectoryRename renames a directory with a lock in it, and restarts latchfs.
func TestDirectoryRename(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	if err := os.MkdirAll(m.Path("a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	holder.Must("ok", "take", m.Path("a/b/x.lock"))
	if err := os.Rename(m.Path("a"), m.Path("c")); err != nil {
		t.Fatal(err)
	}
	other.Must("EEXIST", "take", m.Path("c/b/x.lock"))
	other.Must("EBUSY", "remove", m.Path("c/b/x.lock"))
	m.Kill()
	m.Start()
	other.Must("EBUSY", "remove", m.Path("c/b/x.lock"))
	if l := m.Locks()["c/b/x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.PID() {
		t.Errorf("%+v", m.Locks())
	}
	holder.Must("ok", "remove", m.Path("c/b/x.lock"))
	other.Must("ok", "take", m.Path("c/b/x.lock"))
}

// TestLockCycleRequests checks which requests the kernel sends in a lock cycle: LOOKUP, CREATE, WRITE and UNLINK
// while the caller waits. Because of default_permissions it also asks for the attributes of the directory after
// each change in it (fuse_permission). At a name at which latchfs has seen no lock yet, the kernel reports the
// close too (FLUSH).
func TestLockCycleRequests(t *testing.T) {
	m := harness.MountOver(t, t.TempDir(), "--log-level", "trace")
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	holder.Must("ok", "remove", m.Path("x.lock"))
	before := len(m.Log())
	if !strings.Contains(m.Log(), `"msg":"rx `) || !strings.Contains(m.Log(), "FLUSH") {
		t.Error("the kernel did not report the close of a file that may be data")
	}
	holder.Must("ok", "take", m.Path("x.lock"))
	holder.Must("ok", "remove", m.Path("x.lock"))
	var requests []string
	harness.Eventually(t, "the UNLINK is logged", func() bool {
		requests = nil
		for line := range strings.Lines(m.Log()[before:]) {
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
		t.Errorf("the kernel sent %s", got)
	}
}

// TestLockCycleAllocations limits what the server allocates in a lock cycle.
func TestLockCycleAllocations(t *testing.T) {
	if harness.RaceEnabled {
		t.Skip("the race detector allocates too")
	}
	m := harness.MountOver(t, t.TempDir(), "--log-level", "warning")
	holder := harness.StartProcess(t)
	allocated := func() (objects, bytes float64) {
		text, err := os.ReadFile(m.Path(".latchfs/metrics"))
		if err != nil {
			t.Fatal(err)
		}
		samples := harness.ParseMetrics(t, text)
		return samples["go_memstats_mallocs_total"], samples["go_memstats_alloc_bytes_total"]
	}
	holder.Must("ok", "cycle", m.Path("x.lock"), "100")
	objects, bytes := allocated()
	const cycles = 3000
	holder.Must("ok", "cycle", m.Path("x.lock"), strconv.Itoa(cycles))
	objectsAfter, bytesAfter := allocated()
	each, bytesEach := (objectsAfter-objects)/cycles, (bytesAfter-bytes)/cycles
	t.Logf("%.1f allocations of %.0f bytes", each, bytesEach)
	if each > 40 || bytesEach > 2048 {
		t.Errorf("a lock cycle allocates %.1f objects, %.0f bytes", each, bytesEach)
	}
}

// TestGoneForStat kills holders and looks with the very next system call, stat(2), as shells do before they create
// a file. The kernel has the entry cached then.
func TestGoneForStat(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for i := range 100 {
		p := harness.StartProcess(t)
		p.Must("ok", "take", m.Path("x.lock"))
		time.Sleep(attributesCached) // the kernel no longer caches the attributes from the creation
		if !harness.Exists(m.Path("x.lock")) {
			t.Fatal("a live lock is not there")
		}
		p.Kill()
		if harness.Exists(m.Path("x.lock")) {
			t.Fatalf("the lock was there after its holder's death, round %d", i)
		}
	}
}
