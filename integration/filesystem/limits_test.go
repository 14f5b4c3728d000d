//go:build linux

package filesystem

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestLimitsPerUser checks that a user cannot take locks without limit, and that other users do not notice.
func TestLimitsPerUser(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	const limit = 40
	m := harness.MountOver(t, harness.SharedDir(t), "--max-locks-per-user", strconv.Itoa(limit))
	attacker, bystander, root := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...), harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...), harness.StartProcess(t)
	for i := range limit {
		attacker.Must("ok", "take", m.Path(fmt.Sprintf("a%d.lock", i)))
	}
	attacker.Must("EDQUOT", "take", m.Path("more.lock"))
	attacker.Must("EEXIST", "take", m.Path("a0.lock"))
	attacker.Must("ok", "keep", m.Path("data"), "/proc/self/exe") // data is not limited
	if harness.Exists(m.Path("more.lock")) {
		t.Error("a lock that was refused left a file")
	}
	bystander.Must("ok", "take", m.Path("b.lock"))
	for i := range limit + 10 {
		root.Must("ok", "take", m.Path(fmt.Sprintf("r%d.lock", i)))
	}
	// The count survives restarts of the server and of the mount.
	m.KillServer()
	m.WaitUntilServed()
	attacker.Must("EDQUOT", "take", m.Path("more.lock"))
	m.Kill()
	m.Start()
	attacker.Must("EDQUOT", "take", m.Path("more.lock"))
	attacker.Must("ok", "remove", m.Path("a0.lock"))
	attacker.Must("ok", "take", m.Path("more.lock"))
	attacker.Kill()
	another := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
	harness.Eventually(t, "the locks of the dead do not count", func() bool { return another.Do("take", m.Path("more.lock")) == "ok" })
}

// TestWaitingIsLimited checks that a user cannot wait and read events without limit, that its waiting costs the
// server little, and that other users do not notice.
func TestWaitingIsLimited(t *testing.T) {
	t.Parallel()
	const limit = 20
	m := harness.MountOver(t, harness.SharedDir(t), "--max-waiting-per-user", strconv.Itoa(limit))
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	events := m.Path(".latchfs/events")
	for range limit {
		harness.OpenAs(t, harness.AttackerUID, events, unix.O_RDONLY)
	}
	attacker, bystander := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...), harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...)
	attacker.Must("EDQUOT", "read", events)
	bystander.Must("ok", "read", events)
	attacker.Must("ok", "crowd", m.WaitFile("x.lock"), strconv.Itoa(limit))
	m.WaitForWaiters(limit)
	another := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
	another.Must("EDQUOT", "await", m.WaitFile("x.lock"))
	bystander.Must("ok", "await", m.WaitFile("y.lock"))
	if n := m.Metric("latchfs_waiting_refusals_total"); n != 2 {
		t.Errorf("%v refusals", n)
	}
	if n := m.Metric("latchfs_event_readers"); n != limit {
		t.Errorf("%v readers of events", n)
	}
	attacker.Kill()
	m.WaitForWaiters(0)
	another.Must("ok", "await", m.WaitFile("z.lock"))
}

// TestManyEventStreams checks that 10,000 open streams of events that no process reads cost neither memory nor
// time.
func TestManyEventStreams(t *testing.T) {
	m := harness.MountOver(t, harness.SharedDir(t))
	const streams = 10_000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < streams+1000 {
		t.Skipf("%d descriptors: %v", files.Cur, err)
	}
	holder := harness.StartProcess(t)
	cycles := func() time.Duration {
		start := time.Now()
		holder.Must("ok", "cycle", m.Path("x.lock"), "2000")
		return time.Since(start)
	}
	harness.OpenAs(t, 0, m.Path(".latchfs/events"), unix.O_RDONLY)
	memory := func() int { return harness.StatusNumber(t, fmt.Sprintf("/proc/%d/status", m.Server()), "VmRSS:") }
	before, one := cycles(), memory()
	for range streams {
		harness.OpenAs(t, 0, m.Path(".latchfs/events"), unix.O_RDONLY)
	}
	after, many := cycles(), memory()
	t.Logf("%v and %d KiB, %v and %d KiB", before, one, after, many)
	if many > one+50<<10 || after > 5*before {
		t.Errorf("2,000 cycles took %v and %d KiB with one stream, %v and %d KiB with %d", before, one, after, many, streams)
	}
}

// kernelBefore reports whether the kernel is older than a version.
func kernelBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var is [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &is[0], &is[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(is[:], []int{major, minor}) < 0
}

// TestDescriptorsAreShared checks that a user that opens as many files as it may leaves descriptors to the others,
// and that a tree with more directories than latchfs has descriptors is served, whether or not files can be opened
// by handle.
func TestDescriptorsAreShared(t *testing.T) {
	harness.NeedProgram(t, "prlimit")
	for _, without := range []string{"-sys_resource", "-sys_resource,-dac_read_search"} {
		t.Run("without "+without, func(t *testing.T) {
			dir := harness.SharedDir(t)
			for i := range 1500 {
				if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			m := harness.MountOver(t, dir)
			m.Kill()
			m.Start("prlimit", "--nofile=700:700", "setpriv", "--inh-caps="+without, "--bounding-set="+without)
			passthrough, many := harness.StartProcess(t), "2000" // none of these needs a descriptor of latchfs
			if status, err := os.ReadFile(m.Path(".latchfs/status")); err != nil || strings.Contains(string(status), `"passthrough": false`) {
				many = "50"
			}
			passthrough.Must("ok", "open", m.Path("file"), many)
			other := harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...)
			other.Must("ok", "read", m.Path("file"))
			other.Must("ok", "cycle", m.Path("x.lock"), "10")
			m.Kill()
			m.Args = append(m.Args, "--no-passthrough")
			m.Start("prlimit", "--nofile=700:700", "setpriv", "--inh-caps="+without, "--bounding-set="+without)
			if kernelBefore(t, 6, 18) {
				t.Log("the kernel cannot be asked to forget directories here")
			} else {
				harness.RunShell(t, m.Dir, `test $(find . -type d | wc -l) = 1501; test $(find . -type d | wc -l) = 1501`)
			}
			attacker, bystander := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...), harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...)
			attacker.Must("ENFILE", "open", m.Path("file"), "10000")
			check := func() {
				t.Helper()
				attacker.Must("ENFILE", "open", m.Path("file"), "10000")
				bystander.Must("ok", "read", m.Path("file"))
				bystander.Must("ok", "cycle", m.Path("x.lock"), "10")
				bystander.Must("ok", "take", m.Path("y.lock"))
				attacker.Must("EEXIST", "take", m.Path("y.lock"))
				bystander.Must("ok", "remove", m.Path("y.lock"))
				if out, err := exec.Command(harness.Latchfs, "ls", m.Dir).CombinedOutput(); err != nil {
					t.Errorf("latchfs ls: %v: %s", err, out)
				}
			}
			check()
			if m.Metric("latchfs_open_refusals_total") == 0 || m.Metric("latchfs_open_files") < 100 {
				t.Error("the metrics do not say it")
			}
			m.KillServer()
			m.WaitUntilServed()
			check()
			keeper, answer := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...), "ok"
			if strings.Contains(without, "dac_read_search") { // not by handle, and the kernel cannot forget what is in use
				answer = "ENFILE"
			}
			keeper.Must(answer, "paths", m.Dir, "1400")
			bystander.Must("ok", "look", m.Path("1450"))
			bystander.Must("ok", "look", m.Path("1451"))
			bystander.Must("ok", "cycle", m.Path("x.lock"), "10")
			keeper.Kill()
			attacker.Kill()
			harness.Eventually(t, "what it had open is closed", func() bool { return m.Metric("latchfs_open_files") < 10 })
			another := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
			another.Must("ok", "open", m.Path("file"), "100")
		})
	}
}
