//go:build linux

package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// getxattr returns an extended attribute of a file.
func getxattr(t *testing.T, path, name string) string {
	t.Helper()
	value := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, name, value)
	if err != nil {
		t.Fatalf("%s of %s: %v", name, path, err)
	}
	return string(value[:n])
}

// TestLooking checks that everything that shows a lock shows the same.
func TestLooking(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder := harness.StartProcess(t)
	holder.Must("ok", "mkdir", m.Path("deep"))
	holder.Must("ok", "take", m.Path("deep/x.lock"))
	holder.Must("ok", "take", m.Path("y.lock"))
	var one struct {
		Name, Verdict, Kind, Evidence string
		Generation                    uint64
		Holder                        struct{ PID int }
	}
	text, err := os.ReadFile(m.Path(".latchfs/lock/deep/x.lock"))
	if err == nil {
		err = json.Unmarshal(text, &one)
	}
	if err != nil || one.Name != "deep/x.lock" || one.Verdict != "live" || one.Holder.PID != holder.PID() || one.Kind != "create" || one.Generation == 0 {
		t.Fatalf("%v: %s", err, text)
	}
	for name, want := range map[string]string{
		"verdict": "live", "kind": "create", "generation": fmt.Sprint(one.Generation), "evidence": one.Evidence,
		"holder.pid": strconv.Itoa(holder.PID()), "holder.uid": "0", "rule": "named",
	} {
		if got := getxattr(t, m.Path("deep/x.lock"), "user.latchfs."+name); got != want {
			t.Errorf("attribute %s is %q, not %q", name, got, want)
		}
	}
	// They are not listed, so that programs do not copy them.
	names := make([]byte, 4096)
	if n, err := unix.Llistxattr(m.Path("y.lock"), names); err != nil || strings.Contains(string(names[:n]), "latchfs") {
		t.Errorf("attributes %q %v", names[:max(n, 0)], err)
	}
	for what, err := range map[string]error{
		"set":    unix.Lsetxattr(m.Path("y.lock"), "user.latchfs.verdict", []byte("stale"), 0),
		"remove": unix.Lremovexattr(m.Path("y.lock"), "user.latchfs.verdict"),
	} {
		if err != unix.EPERM {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := os.WriteFile(m.Path("data"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if refused := m.Logged("refused: attributes that describe a lock cannot be set"); len(refused) != 2 || refused[0]["path"] != "y.lock" || refused[0]["attribute"] != "user.latchfs.verdict" {
		t.Errorf("logged %v", refused)
	}
	if _, err := unix.Lgetxattr(m.Path("data"), "user.latchfs.verdict", names); err != unix.ENODATA {
		t.Errorf("of what is no lock: %v", err)
	}
	for dir, want := range map[string]string{"lock": "deep y.lock", "lock/deep": "x.lock", "wait": "deep y.lock"} {
		entries, err := os.ReadDir(m.Path(".latchfs/" + dir))
		var got []string
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if strings.Join(got, " ") != want || err != nil {
			t.Errorf("%s has %q, not %q: %v", dir, got, want, err)
		}
	}
	for path, want := range map[string]error{"lock/data": os.ErrNotExist, "lock/z.lock": os.ErrNotExist, "wait/data": os.ErrNotExist, "wait/no/z.lock": os.ErrNotExist} {
		if _, err := os.Stat(m.Path(".latchfs/" + path)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, not %v", path, err, want)
		}
	}
	table, err := os.ReadFile(m.Path(".latchfs/locks"))
	if lines := strings.Split(string(table), "\n"); err != nil || len(lines) != 4 || !strings.Contains(lines[1], "deep/x.lock") || !strings.Contains(lines[1], strconv.Itoa(holder.PID())) {
		t.Errorf("%v: %s", err, table)
	}
	out, err := exec.Command(harness.Latchfs, "why", m.Path("deep/x.lock")).CombinedOutput()
	if want := fmt.Sprintf("%s is held by process %d", m.Path("deep/x.lock"), holder.PID()); err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("why: %v: %s", err, out)
	}
}

// TestLookingAtDirectories checks that a directory of data at a lock name is no lock, also for latchfs why and
// with many files, and that locks in it are found.
func TestLookingAtDirectories(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	m.MustRun(`mkdir data.lock with.lock; for d in data.lock with.lock; do touch $d/1 $d/2 $d/3 $d/4 $d/5; done`)
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("with.lock/x.lock"))
	out, err := exec.Command(harness.Latchfs, "why", m.Path("data.lock"), m.Path("with.lock"), m.Path("with.lock/x.lock")).CombinedOutput()
	if err != nil || strings.Count(string(out), "is not a lock for latchfs") != 2 || !strings.Contains(string(out), "x.lock is held by process "+strconv.Itoa(holder.PID())) {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := os.ReadFile(m.Path(".latchfs/lock/data.lock")); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := os.ReadFile(m.Path(".latchfs/lock/with.lock/x.lock")); err != nil {
		t.Error(err)
	}
}

// TestControl checks that latchfs obeys what an operator writes to ctl, and refuses and logs what another user
// writes.
func TestControl(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	ctl := m.Path(".latchfs/ctl")
	stranger := harness.StartProcess(t, harness.AsUser(t, 65534)...)
	for _, command := range []string{"release x.lock", "force-release x.lock", "compact", "log-level trace"} {
		stranger.Must("EACCES", "write", ctl, command)
	}
	if refused := m.Logged("refused: not an operator"); len(refused) != 4 || fmt.Sprint(refused[1]["uid"]) != "65534" || refused[1]["argument"] != "x.lock" {
		t.Errorf("logged %v", refused)
	}
	operator := harness.StartProcess(t)
	for command, answer := range map[string]string{
		"release x.lock": "EBUSY", "release y.lock": "ENOENT", "compact": "ok", "log-level debug": "ok", "log-level loud": "EINVAL",
		"compact it": "EINVAL", "release": "EINVAL", "sing": "EINVAL",
	} {
		operator.Must(answer, "write", ctl, command)
	}
	if m.Locks()["x.lock"].Holder.PID != holder.PID() {
		t.Errorf("%+v", m.Locks())
	}
	operator.Must("ok", "write", ctl, "force-release x.lock")
	if harness.Exists(m.Path("x.lock")) {
		t.Error("the lock is still there")
	}
	out, err := exec.Command(harness.Latchfs, "check", m.StateDir).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "0 locks; ") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestControlAsksWhoOpened checks that ctl obeys only if both the user that opened it and the user that writes to
// it may give orders, also after a restart of the server.
func TestControlAsksWhoOpened(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	harness.StartProcess(t).Must("ok", "take", m.Path("x.lock"))
	ctl := m.Path(".latchfs/ctl")
	strangers, roots := harness.OpenAs(t, harness.AttackerUID, ctl, unix.O_WRONLY), harness.OpenAs(t, 0, ctl, unix.O_WRONLY)
	refuse := func() {
		t.Helper()
		for _, command := range []string{"force-release x.lock", "compact", "log-level debug"} {
			if _, err := unix.Write(strangers, []byte(command)); err != unix.EACCES {
				t.Errorf("%s, opened by another: %v", command, err)
			}
			var err error
			harness.WithUID(harness.AttackerUID, func() { _, err = unix.Write(roots, []byte(command)) })
			if err != unix.EACCES {
				t.Errorf("%s, written by another: %v", command, err)
			}
		}
	}
	refuse()
	m.KillServer()
	m.WaitUntilServed()
	refuse()
	if _, err := unix.Write(roots, []byte("force-release x.lock")); err != nil || harness.Exists(m.Path("x.lock")) {
		t.Errorf("of root alone: %v", err)
	}
}

// TestEveryControlFile checks that each control file, and each attribute, agrees with latchfs ls --json.
func TestEveryControlFile(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "getfattr")
	m := harness.MountOver(t, t.TempDir())
	holder, dead := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	dead.Must("ok", "take", m.Path("dead.lock"))
	pid := dead.PID()
	dead.Kill()
	harness.Eventually(t, "the dead one's lock is gone", func() bool { return !harness.Exists(m.Path("dead.lock")) })
	known := m.Locks()["x.lock"]
	read := func(name string) string {
		t.Helper()
		out, err := exec.Command("cat", m.Path(".latchfs/"+name)).Output()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return string(out)
	}
	list := func(text string) (all []harness.Lock) {
		t.Helper()
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		return all
	}
	checks := map[string]func() string{
		"locks": func() string {
			text := read("locks")
			if rows := strings.Split(text, "\n"); len(rows) != 3 || !strings.Contains(rows[1], fmt.Sprintf("x.lock  %d", holder.PID())) || !strings.Contains(rows[1], known.Evidence) {
				return text
			}
			return ""
		},
		"locks.json": func() string {
			all := list(read("locks.json"))
			if len(all) != 2 || all[0].Name != "dead.lock" || all[0].ReclaimedAt == nil || all[0].Holder.PID != pid || all[1].Evidence != known.Evidence || all[1].Generation != known.Generation {
				return fmt.Sprint(all)
			}
			return ""
		},
		"status": func() string {
			var s struct {
				PID, Locks, Waiting int
				StateDir            string `json:"state_dir"`
			}
			if err := json.Unmarshal([]byte(read("status")), &s); err != nil || s.PID != m.Keeper.Process.Pid || s.Locks != 1 || s.StateDir != m.StateDir {
				return fmt.Sprintf("%+v %v", s, err)
			}
			return ""
		},
		"reclaimed": func() string {
			var kept []struct{ Name, Reason, File string }
			if err := json.Unmarshal([]byte(read("reclaimed")), &kept); err != nil || len(kept) != 1 || kept[0].Name != "dead.lock" || kept[0].Reason != "dead-pid" {
				return fmt.Sprintf("%+v %v", kept, err)
			}
			if text, err := os.ReadFile(kept[0].File); err != nil || strings.TrimSpace(string(text)) != strconv.Itoa(pid) {
				return fmt.Sprintf("%s %v", text, err)
			}
			return ""
		},
		"metrics": func() string {
			if text := read("metrics"); harness.ParseMetrics(t, []byte(text))["latchfs_locks verdict=live"] != 1 {
				return text
			}
			return ""
		},
		"events": func() string {
			file, err := os.Open(m.Path(".latchfs/events"))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if n, err := unix.Open(m.Path(".latchfs/events"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
				return err.Error()
			} else if _, err := unix.Read(n, make([]byte, 100)); err != unix.EAGAIN || unix.Close(n) != nil {
				return fmt.Sprint("nothing happened, and it says ", err)
			}
			return ""
		},
		"ctl": func() string {
			if err := os.WriteFile(m.Path(".latchfs/ctl"), []byte("compact"), 0); err != nil {
				return err.Error()
			}
			return ""
		},
		"lock": func() string {
			if one := list("[" + read("lock/x.lock") + "]")[0]; one.Evidence != known.Evidence || one.Holder.PID != holder.PID() || !one.Made.Equal(known.Made) {
				return fmt.Sprint(one)
			}
			return ""
		},
		"wait": func() string {
			if text := read("wait/free.lock"); !strings.HasPrefix(text, "free.lock is free, and reserved for ") {
				return text
			}
			return ""
		},
	}
	entries, err := os.ReadDir(m.Path(".latchfs"))
	if err != nil || len(entries) != len(checks) {
		t.Errorf("%d files, %d checks: %v", len(entries), len(checks), err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			if wrong := checks[entry.Name()](); wrong != "" {
				t.Error(wrong)
			}
		})
	}
	if entries, err := os.ReadDir(m.Dir); err != nil || len(entries) != 1 {
		t.Errorf("the mount lists %v: %v", entries, err)
	}
	for name, want := range map[string]string{
		"verdict": "live", "kind": "create", "generation": fmt.Sprint(known.Generation), "made": known.Made.Format(time.RFC3339Nano), "rule": known.Rule, "evidence": known.Evidence,
		"holder.pid": strconv.Itoa(holder.PID()), "holder.uid": "0", "holder.command": command(t, holder.PID()),
	} {
		out, err := exec.Command("getfattr", "--only-values", "-n", "user.latchfs."+name, m.Path("x.lock")).Output()
		if err != nil || string(out) != want {
			t.Errorf("attribute %s is %q, not %q: %v", name, out, want, err)
		}
	}
}

// command returns the kernel's name of a process.
func command(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}
