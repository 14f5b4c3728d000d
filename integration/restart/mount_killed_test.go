//go:build linux

package integration

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
	"time"

	"golang.org/x/sys/unix"
)

// TestKilledDaemon: 50 locks of processes that live and 50 of processes that are killed
// while latchfs is dead. A program that looks in a loop sees the mount or an
// error, never the directory beneath.
func TestKilledDaemon(t *testing.T) {
	dir := t.TempDir()
	m := mountOver(t, dir)
	type held struct {
		process *process
		name    string
		payload []byte
		stat    unix.Stat_t
		lock    lock
	}
	var live, dead []*held
	for i := range 100 {
		h := &held{process: newLocker(t), name: fmt.Sprintf("%d.lock", i)}
		h.process.must("ok", "take", m.path(h.name))
		if i%2 == 0 {
			live = append(live, h)
		} else {
			dead = append(dead, h)
		}
	}
	before := m.locks()
	for _, h := range live {
		h.lock = before[h.name]
		h.payload, _ = os.ReadFile(m.path(h.name))
		if err := unix.Stat(m.path(h.name), &h.stat); err != nil {
			t.Fatal(err)
		}
	}

	// The looker tells the mount from what is beneath by the type of filesystem.
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
			if err := unix.Statfs(m.dir, &fs); err == nil {
				looks++
				select {
				case looking <- struct{}{}:
				default:
				}
				if fs.Type != unix.FUSE_SUPER_MAGIC {
					seen <- fmt.Errorf("look %d saw the directory beneath", looks)
					close(seen)
					return
				}
			}
		}
	}()
	<-looking
	m.kill()
	for _, h := range dead {
		h.process.kill()
	}
	m.start()
	<-looking // at the new mount too
	close(stop)
	for err := range seen {
		t.Error(err)
	}

	after := m.locks()
	if len(after) != len(live) {
		t.Errorf("%d locks are held, not %d", len(after), len(live))
	}
	for _, h := range live {
		var st unix.Stat_t
		if err := unix.Stat(m.path(h.name), &st); err != nil {
			t.Error(err)
			continue
		}
		payload, _ := os.ReadFile(m.path(h.name))
		if got := after[h.name]; !reflect.DeepEqual(got, h.lock) || st.Mtim != h.stat.Mtim || st.Ino != h.stat.Ino || st.Uid != h.stat.Uid || !bytes.Equal(payload, h.payload) {
			t.Errorf("%s: was %+v, is %+v", h.name, h.lock, got)
		}
	}
	other := newLocker(t)
	for _, h := range dead {
		other.must("ok", "take", m.path(h.name))
	}
	for _, h := range live {
		other.must("EEXIST", "take", m.path(h.name))
		h.process.kill()
		other.must("ok", "take", m.path(h.name))
	}
}

// namespace runs latchfs and its users in a mount namespace in which the boot id is what
// a file says, by the kernel's own interface.
type namespace struct {
	t      *testing.T
	bootID string // the file mounted over the kernel's
	log    string
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	needFUSE(t)
	dir := t.TempDir()
	n := &namespace{t: t, bootID: filepath.Join(dir, "boot_id"), log: filepath.Join(dir, "log")}
	n.boot("11111111-2222-4333-8444-555555555555\n")
	return n
}

func (n *namespace) boot(id string) {
	n.t.Helper()
	if err := os.WriteFile(n.bootID, []byte(id), 0o444); err != nil {
		n.t.Fatal(err)
	}
}

// run runs a shell script in mount and pid namespaces of its own, with the boot id mounted;
// all it started ends with it.
func (n *namespace) run(script string) {
	n.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", `
		set -eu
		mount --bind "$BOOT_ID" /proc/sys/kernel/random/boot_id
		mounted() { "$LATCHFS" mount --log-level debug --state-dir "$STATE" "$DIR" 2>>"$LOG" & daemon=$!
			n=0; until test -e "$DIR/.latchfs/status"; do n=$((n+1)); test $n -lt 1000 || { cat "$LOG"; exit 1; }; sleep 0.01; done; }
		# A lock is taken by a shell of its own, which waits for a word to end.
		holder() { setsid sh -c 'set -C; echo $$ > "$1"; exec sleep 1000' holder "$DIR/$1" & holder=$!
			until test -s "$DIR/$1"; do sleep 0.01; done; }
		`+script)
	dir := n.t.TempDir()
	cmd.Env = append(os.Environ(), "BOOT_ID="+n.bootID, "LATCHFS="+latchfs, "DIR="+dir,
		"STATE="+filepath.Join(n.t.TempDir(), "state"), "LOG="+n.log)
	limit := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	if out, err := cmd.CombinedOutput(); err != nil {
		log, _ := os.ReadFile(n.log)
		n.t.Fatalf("%v: %s\n%s", err, out, log)
	}
}

// TestBootIDMismatch: after a change of boot id, a live process with the pid and the start
// time of the holder does not hold.
func TestBootIDMismatch(t *testing.T) {
	n := newNamespace(t)
	n.run(`
		mounted; holder x.lock
		kill -9 $daemon; wait $daemon || true
		echo aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee > "$BOOT_ID"
		mounted
		kill -0 $holder
		test ! -e "$DIR/x.lock"
		grep -q 'reclaimed a stale lock.*path=x.lock.*reason=boot-id-mismatch' "$LOG"
		kill -9 $holder; "$LATCHFS" umount "$DIR"`)
}

// TestSameBootKeepsLocks is the control run of the test above.
func TestSameBootKeepsLocks(t *testing.T) {
	n := newNamespace(t)
	n.run(`
		mounted; holder x.lock
		kill -9 $daemon; wait $daemon || true
		mounted
		test -e "$DIR/x.lock"
		kill -9 $holder; wait $holder || true
		n=0; while test -e "$DIR/x.lock"; do n=$((n+1)); test $n -lt 1000; sleep 0.01; done
		"$LATCHFS" umount "$DIR"`)
}

// TestUnreadableBootID: without a boot id, pid and start time decide.
func TestUnreadableBootID(t *testing.T) {
	n := newNamespace(t)
	n.boot("")
	n.run(`
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

// TestRecycledPID: while latchfs is dead the holder ends and another process gets its
// pid, in a pid namespace where that can be arranged.
func TestRecycledPID(t *testing.T) {
	n := newNamespace(t)
	n.run(`
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

// TestLeftBehind: lock files without a record are judged when they are first seen.
func TestLeftBehind(t *testing.T) {
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
	m := mountOver(t, dir)
	if _, err := exec.Command("ls", "-l", m.dir).Output(); err != nil {
		t.Fatal(err)
	}
	for name, f := range files {
		payload, err := os.ReadFile(m.path(name))
		if f.stays && (err != nil || string(payload) != f.payload) {
			t.Errorf("%s: %v", name, err)
		} else if !f.stays && !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	other := newLocker(t)
	other.must("EBUSY", "remove", m.path("live.lock"))
	_ = live.Process.Kill()
	_ = live.Wait()
	// It may be a pid file: not as long as the kernel has not said that it is closed.
	eventually(t, "it is free", func() bool { return other.do("take", m.path("live.lock")) == "ok" })
	if kept, err := os.ReadDir(filepath.Join(m.stateDir, "reclaimed")); err != nil || len(kept) < 4 {
		t.Errorf("reclaimed: %v %v", kept, err)
	}
}
