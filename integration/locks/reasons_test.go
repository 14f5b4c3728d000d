//go:build linux

package locks

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"latchfs/integration/harness"
)

// TestReasons brings about every reason for which a lock is stale, and checks that the log, latchfs ls --json and
// latchfs scan give that reason.
func TestReasons(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		// leave creates x.lock in dir, as a program does that ran before latchfs.
		leave func(t *testing.T, dir string)
	}{
		{"boot-id-mismatch", func(t *testing.T, dir string) {
			// In this boot a live process has the pid.
			write(t, dir, fmt.Sprintf(`{"pid":%d,"bootId":"11111111-2222-4333-8444-555555555555"}`, os.Getpid()))
		}},
		{"dead-pid", func(t *testing.T, dir string) { write(t, dir, strconv.Itoa(harness.DeadPID(t))) }},
		{"recycled-pid", func(t *testing.T, dir string) {
			pid := harness.DeadPID(t)
			write(t, dir, strconv.Itoa(pid))
			time.Sleep(50 * time.Millisecond) // start times count clock ticks of 10 ms
			recycle(t, pid)
		}},
		{"missing-pid", func(t *testing.T, dir string) {
			write(t, dir, `{"pid":0,"createdAt":"2026-01-01T00:00:00Z"}`)
			time.Sleep(1500 * time.Millisecond)
		}},
		{"invalid-createdAt", func(t *testing.T, dir string) {
			write(t, dir, `{"pid":null,"createdAt":"yesterday"}`)
			time.Sleep(1500 * time.Millisecond)
		}},
		{"too-old", func(t *testing.T, dir string) {
			if err := os.Symlink("another-machine.example.org:"+strconv.Itoa(os.Getpid()), filepath.Join(dir, "x.lock")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1500 * time.Millisecond)
		}},
	} {
		t.Run(c.reason, func(t *testing.T) {
			harness.NeedFUSE(t)
			dir := t.TempDir()
			c.leave(t, dir)
			scanned := scan(t, dir, "--stale-after", "1s")
			if len(scanned) != 1 || scanned[0].Verdict != "stale" || scanned[0].Reason != c.reason || scanned[0].Evidence == "" {
				t.Errorf("scan: %+v", scanned)
			}
			m := harness.MountOver(t, dir, "--stale-after", "1s")
			if harness.Exists(m.Path("x.lock")) {
				t.Error("it is there")
			}
			logged := m.Logged("reclaimed a stale lock")
			if len(logged) != 1 || logged[0]["reason"] != c.reason || logged[0]["path"] != "x.lock" {
				t.Errorf("logged %v", logged)
			}
			listed := m.List()
			if len(listed) != 1 || listed[0].Reason != c.reason || listed[0].Verdict != "stale" || listed[0].ReclaimedAt == nil {
				t.Errorf("ls: %+v", listed)
			}
		})
	}
	// According to /proc/stat the machine booted after the file was made.
	t.Run("before-boot", func(t *testing.T) {
		n := harness.NewBootNamespace(t)
		n.Run(`
			echo 1 > "$DIR/x.lock"; sleep 3
			sed "s/^btime .*/btime $(date +%s)/" /proc/stat > "$DIR.stat"; mount --bind "$DIR.stat" /proc/stat
			"$LATCHFS" scan --json "$DIR" | grep -q '"reason": "before-boot"'
			mounted
			test ! -e "$DIR/x.lock"
			grep -q 'reclaimed a stale lock.*path=x.lock.*reason=before-boot' "$LOG"
			"$LATCHFS" ls --json "$DIR" | grep -q '"reason": "before-boot"'
			"$LATCHFS" umount "$DIR"`)
	})
}

func write(t *testing.T, dir, payload string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "x.lock"), []byte(payload), 0o644); err != nil {
		t.Fatal(err)
	}
}

// recycle starts a process with a pid that another process had. The kernel's counter of pids is set back for that,
// and then forward again: tests that run at the same time rely on pids of dead processes.
func recycle(t *testing.T, pid int) {
	t.Helper()
	const counter = "/proc/sys/kernel/ns_last_pid"
	last, err := os.ReadFile(counter)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.WriteFile(counter, last, 0) }()
	for range 100 {
		if err := os.WriteFile(counter, []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		if cmd.Process.Pid == pid {
			return
		}
	}
	t.Fatalf("no process got the pid %d", pid)
}

// scan returns the output of latchfs scan --json for a directory.
func scan(t *testing.T, dir string, flags ...string) (found []struct {
	harness.Lock
	Removed bool
}) {
	t.Helper()
	out, err := exec.Command(harness.Latchfs, append([]string{"scan", "--json", dir}, flags...)...).Output()
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	if err := json.Unmarshal(out, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

// TestScanFix checks that latchfs scan --fix removes stale locks of every kind and nothing else.
func TestScanFix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dead, self := strconv.Itoa(harness.DeadPID(t)), strconv.Itoa(os.Getpid())
	make := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	stale := map[string]bool{"dead.lock": true, "sub/deep/dead.lock": true, "dir.lock": true, "link.lock": true, "old.lock": true}
	make("dead.lock", dead+"\n")
	make("sub/deep/dead.lock", `{"pid":`+dead+`}`)
	make("dir.lock/owner.json", `{"pid":`+dead+`}`)
	make("live.lock", self+"\n")
	make("livedir.lock/pid", self+"\n")
	make("data.lock", "name = \"x\"\n")
	make("datadir.lock/readme", "text\n")
	make("ordinary", dead+"\n")
	make("open.lock", dead+"\n")
	for link, text := range map[string]string{"link.lock": host + ":" + dead, "livelink.lock": host + ":" + self, "otherlink.lock": "../data.lock"} {
		if err := os.Symlink(text, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	make("old.lock", "")
	time.Sleep(6200 * time.Millisecond)
	make("new.lock", "")
	open, err := os.Open(filepath.Join(dir, "open.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	before := scan(t, dir, "--stale-after", "6s")
	for _, f := range before {
		if (f.Verdict == "stale") != stale[f.Name] || f.Removed {
			t.Errorf("%+v", f)
		}
	}
	make("new.lock", "")
	for _, f := range scan(t, dir, "--stale-after", "6s", "--fix") {
		if f.Removed != stale[f.Name] || harness.Exists(filepath.Join(dir, f.Name)) == stale[f.Name] {
			t.Errorf("--fix: %+v", f)
		}
	}
	if len(before) != 13 || !harness.Exists(filepath.Join(dir, "ordinary")) {
		t.Errorf("%d were scanned", len(before))
	}
	harness.NeedFUSE(t)
	m := harness.MountOver(t, dir)
	if code, said := harness.RunLatchfs(t, nil, "scan", m.Dir); code != 4 || !strings.Contains(said, "use latchfs ls") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if code, _ := harness.RunLatchfs(t, nil, "scan", filepath.Join(dir, "none")); code != 3 {
		t.Errorf("exit code %d", code)
	}
	if code, _ := harness.RunLatchfs(t, nil, "scan", "--lock-pattern", "a/b", t.TempDir()); code != 2 {
		t.Errorf("exit code %d", code)
	}
}

// TestSharedStorage checks that a lock recorded by another machine is unknown, and that the boot id of that
// machine is not compared with this one's.
func TestSharedStorage(t *testing.T) {
	t.Parallel()
	n := harness.NewBootNamespace(t)
	n.Run(`
		echo 11111111111111111111111111111111 > "$DIR.machine"; mount --bind "$DIR.machine" /etc/machine-id
		mounted; holder x.lock
		kill -9 $daemon; wait $daemon || true; kill -9 $holder
		echo 22222222222222222222222222222222 > "$DIR.machine"; echo aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee > "$BOOT_ID"
		mounted
		test -e "$DIR/x.lock"
		"$LATCHFS" ls "$DIR" | grep -q "x.lock .* unknown"
		! grep boot-id-mismatch "$LOG"
		rm "$DIR/x.lock"
		"$LATCHFS" umount "$DIR"`)
}
