//go:build linux

package restart

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestKilledDaemon kills latchfs with 100 locks and, before the next mount, half of their holders. A program that
// looks at the directory in a loop sees the mount or an error, and never the backing directory.
func TestKilledDaemon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := harness.MountOver(t, dir)
	type held struct {
		process *harness.Process
		name    string
		payload []byte
		stat    unix.Stat_t
		lock    harness.Lock
	}
	var live, dead []*held
	for i := range 100 {
		h := &held{process: harness.StartProcess(t), name: fmt.Sprintf("%d.lock", i)}
		h.process.Must("ok", "take", m.Path(h.name))
		if i%2 == 0 {
			live = append(live, h)
		} else {
			dead = append(dead, h)
		}
	}
	before := m.Locks()
	for _, h := range live {
		h.lock = before[h.name]
		h.payload, _ = os.ReadFile(m.Path(h.name))
		if err := unix.Stat(m.Path(h.name), &h.stat); err != nil {
			t.Fatal(err)
		}
	}

	// The goroutine tells the mount from the backing directory by the type of the filesystem.
	stop, seen, looking := make(chan struct{}), make(chan error, 2), make(chan struct{}, 1)
	go func() {
		looks := 0
		for {
			select {
			case <-stop:
				if looks == 0 {
					seen <- fmt.Errorf("never looked")
				}
				close(seen)
				return
			default:
			}
			var fs unix.Statfs_t
			if err := unix.Statfs(m.Dir, &fs); err == nil {
				looks++
				select {
				case looking <- struct{}{}:
				default:
				}
				if fs.Type != unix.FUSE_SUPER_MAGIC {
					seen <- fmt.Errorf("look %d saw the backing directory", looks)
					close(seen)
					return
				}
			}
		}
	}()
	<-looking
	m.Kill()
	for _, h := range dead {
		h.process.Kill()
	}
	m.Start()
	<-looking // the goroutine has seen the new mount too
	close(stop)
	for err := range seen {
		t.Error(err)
	}

	after := m.Locks()
	if len(after) != len(live) {
		t.Errorf("%d locks are held, not %d", len(after), len(live))
	}
	for _, h := range live {
		var st unix.Stat_t
		if err := unix.Stat(m.Path(h.name), &st); err != nil {
			t.Error(err)
			continue
		}
		payload, _ := os.ReadFile(m.Path(h.name))
		if got := after[h.name]; !reflect.DeepEqual(got, h.lock) || st.Mtim != h.stat.Mtim || st.Ino != h.stat.Ino || st.Uid != h.stat.Uid || !bytes.Equal(payload, h.payload) {
			t.Errorf("%s: was %+v, is %+v", h.name, h.lock, got)
		}
	}
	other := harness.StartProcess(t)
	for _, h := range dead {
		other.Must("ok", "take", m.Path(h.name))
	}
	for _, h := range live {
		other.Must("EEXIST", "take", m.Path(h.name))
		h.process.Kill()
		other.Must("ok", "take", m.Path(h.name))
	}
}

// TestBootIDMismatch checks that after a change of the boot id a live process with the pid and the start time of
// the holder is not the holder.
func TestBootIDMismatch(t *testing.T) {
	t.Parallel()
	n := harness.NewBootNamespace(t)
	n.Run(`
		mounted; holder x.lock
		kill -9 $daemon; wait $daemon || true
		echo aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee > "$BOOT_ID"
		mounted
		kill -0 $holder
		test ! -e "$DIR/x.lock"
		grep -q 'reclaimed a stale lock.*path=x.lock.*reason=boot-id-mismatch' "$LOG"
		kill -9 $holder; "$LATCHFS" umount "$DIR"`)
}

// TestSameBootKeepsLocks is the control run of TestBootIDMismatch.
func TestSameBootKeepsLocks(t *testing.T) {
	t.Parallel()
	n := harness.NewBootNamespace(t)
	n.Run(`
		mounted; holder x.lock
		kill -9 $daemon; wait $daemon || true
		mounted
		test -e "$DIR/x.lock"
		kill -9 $holder; wait $holder || true
		n=0; while test -e "$DIR/x.lock"; do n=$((n+1)); test $n -lt 1000; sleep 0.01; done
		"$LATCHFS" umount "$DIR"`)
}

// TestUnreadableBootID checks that pid and start time decide if the boot id cannot be read.
func TestUnreadableBootID(t *testing.T) {
	t.Parallel()
	n := harness.NewBootNamespace(t)
	n.SetBootID("")
	n.Run(`
		mounted; grep -q boot_id=unknown "$LOG"
		holder live.lock; live=$holder; holder dead.lock
		kill -9 $daemon; wait $daemon || true
		kill -9 $holder; wait $holder || true
		mounted
		test -e "$DIR/live.lock"
		test ! -e "$DIR/dead.lock"
		grep -q 'reclaimed a stale lock.*path=dead.lock.*reason=dead-pid' "$LOG"
		kill -9 $live; "$LATCHFS" umount "$DIR"`)
}

// TestRecycledPID gives the pid of a holder that has ended to another process while latchfs is dead. It runs in a
// pid namespace, where a test can choose the next pid.
func TestRecycledPID(t *testing.T) {
	t.Parallel()
	n := harness.NewBootNamespace(t)
	n.Run(`
		mounted; holder x.lock; pid=$holder
		kill -9 $daemon; wait $daemon || true
		kill -9 $pid; wait $pid || true
		sleep 0.05 # start times count clock ticks of 10 ms
		echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid
		sleep 1000 & again=$!
		test $again = $pid
		mounted
		kill -0 $pid
		test ! -e "$DIR/x.lock"
		grep -q 'reclaimed a stale lock.*path=x.lock.*reason=recycled-pid' "$LOG"
		kill -9 $again; "$LATCHFS" umount "$DIR"`)
}

// TestLeftBehind checks that lock files without a record are judged when they are first seen.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	live := exec.Command("sleep", "1000")
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.Process.Kill(); _ = live.Wait() }()
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	current := strings.TrimSpace(string(bootID))
	type file struct {
		payload string
		stays   bool
	}
	files := map[string]file{
		"live.lock":      {fmt.Sprintln(live.Process.Pid), true},
		"dead.lock":      {fmt.Sprintln(dead.Process.Pid), false},
		"openclaw.lock":  {fmt.Sprintf(`{"pid":%d,"createdAt":"2026-01-01T00:00:00Z"}`, dead.Process.Pid), false},
		"otherboot.lock": {fmt.Sprintf(`{"pid":%d,"bootId":"11111111-2222-4333-8444-555555555555"}`, live.Process.Pid), false},
		"thisboot.lock":  {fmt.Sprintf(`{"pid":%d,"bootId":%q}`, live.Process.Pid, current), true},
		"recycled.lock":  {fmt.Sprintf(`{"pid":%d,"starttime":17}`, live.Process.Pid), false},
		"empty.lock":     {"", true},
		"data.lock":      {"# a lock file of some package manager\n", true},
		"large.lock":     {strconv.Itoa(dead.Process.Pid) + "\n" + strings.Repeat("x", 5000), true},
		"negative.lock":  {"-1\n", true},
		"huge.lock":      {"9223372036854775808\n", true},
		"binary.lock":    {"\x00\x01\xff", true},
		"ordinary.txt":   {fmt.Sprintln(dead.Process.Pid), true},
	}
	for name, f := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(f.payload), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := harness.MountOver(t, dir)
	if _, err := exec.Command("ls", "-l", m.Dir).Output(); err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		payload, err := os.ReadFile(m.Path(name))
		if f.stays && (err != nil || string(payload) != f.payload) {
			t.Errorf("%s: %v", name, err)
		} else if !f.stays && !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	other := harness.StartProcess(t)
	other.Must("EBUSY", "remove", m.Path("live.lock"))
	_ = live.Process.Kill()
	_ = live.Wait()
	// The file may be a pid file until the kernel has reported that it is closed.
	harness.Eventually(t, "it is free", func() bool { return other.Do("take", m.Path("live.lock")) == "ok" })
	if kept, err := os.ReadDir(filepath.Join(m.StateDir, "reclaimed")); err != nil || len(kept) < 4 {
		t.Errorf("reclaimed: %v %v", kept, err)
	}
}
