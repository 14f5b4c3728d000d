//go:build linux

package locks

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// A writer is a program that writes its lock file, with what it knows of itself.
type writer struct {
	pid              int
	start            string // in clock ticks
	host, boot, when string
	booted           int64 // in seconds
}

func writerOf(t *testing.T, pid int) writer {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var system unix.Sysinfo_t
	if err := unix.Sysinfo(&system); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return writer{pid, strings.Fields(rest)[19], host, strings.TrimSpace(string(boot)), time.Now().UTC().Format(time.RFC3339), epoch() - int64(system.Uptime)}
}

// epoch returns the time in seconds since 1970.
func epoch() int64 { return time.Now().Unix() }

// forms lists payloads of real programs.
var forms = []struct {
	name string
	text func(w writer) string
}{
	{"number", func(w writer) string { return fmt.Sprint(w.pid) }},
	{"number and newline", func(w writer) string { return fmt.Sprintln(w.pid) }},
	{"padded number", func(w writer) string { return fmt.Sprintf("%10d\n", w.pid) }},
	{"number, then a line with the host", func(w writer) string { return fmt.Sprintf("%d\n%s\n", w.pid, w.host) }},
	{"pid", func(w writer) string { return fmt.Sprintf(`{"pid":%d}`, w.pid) }},
	{"pid, createdAt, starttime, bootId, hostname", func(w writer) string {
		return fmt.Sprintf(`{"pid":%d,"createdAt":%q,"starttime":%s,"bootId":%q,"hostname":%q}`, w.pid, w.when, w.start, w.boot, w.host)
	}},
	{"host:pid", func(w writer) string { return fmt.Sprintf("%s:%d", w.host, w.pid) }},
	{"host-pid", func(w writer) string { return fmt.Sprintf("%s-%d", w.host, w.pid) }},
	{"host/namespace:pid", func(w writer) string { return fmt.Sprintf("%s/f0000000:%d", w.host, w.pid) }},
	{"address:+pid", func(w writer) string { return fmt.Sprintf("127.0.1.1:+%d", w.pid) }},
	{"user@host.pid:boot", func(w writer) string { return fmt.Sprintf("root@%s.%d:%d", w.host, w.pid, w.booted) }},
	{"file|host|pid|number", func(w writer) string { return fmt.Sprintf("/srv/x.lock|%s|%d|8231", w.host, w.pid) }},

	{"processId", func(w writer) string { return fmt.Sprintf(`{"processId":%d}`, w.pid) }},
	{"owner_pid", func(w writer) string { return fmt.Sprintf(`{"owner_pid":%d}`, w.pid) }},
	{"holder", func(w writer) string { return fmt.Sprintf(`{"holder":%d}`, w.pid) }},
	{"owner.pid", func(w writer) string { return fmt.Sprintf(`{"owner":{"pid":%d}}`, w.pid) }},
	{"PID", func(w writer) string { return fmt.Sprintf(`{"PID":%d}`, w.pid) }},
	{"pID", func(w writer) string { return fmt.Sprintf(`{"pID":%d}`, w.pid) }},
	{"pid as a string", func(w writer) string { return fmt.Sprintf(`{"pid":"%d"}`, w.pid) }},
	{"array of pid and host", func(w writer) string { return fmt.Sprintf(`[%d,%q]`, w.pid, w.host) }},
	{"pid=", func(w writer) string { return fmt.Sprintf("pid=%d\n", w.pid) }},
	{"PID:", func(w writer) string { return fmt.Sprintf("PID: %d\n", w.pid) }},
	{"pid: in YAML", func(w writer) string {
		return fmt.Sprintf("---\nhost: %s\nstarted: %s\npid: %d\nreason: backup\n", w.host, w.when, w.pid)
	}},
	{"pid:host:time", func(w writer) string { return fmt.Sprintf("%d:%s:%d", w.pid, w.host, epoch()) }},
	{"host:pid:time", func(w writer) string { return fmt.Sprintf("%s:%d:%d", w.host, w.pid, epoch()) }},
	{"uuid pid", func(w writer) string { return fmt.Sprintf("7d1f0c52-9a3e-4f0b-8a61-2f2f6c1f9a77 %d\n", w.pid) }},
	{"host, then a line with the pid", func(w writer) string { return fmt.Sprintf("%s\n%d\n", w.host, w.pid) }},
	{"pid epoch", func(w writer) string { return fmt.Sprintf("%d %d\n", w.pid, epoch()) }},
	{"pid tab host", func(w writer) string { return fmt.Sprintf("%d\t%s\n", w.pid, w.host) }},
	{"hexadecimal", func(w writer) string { return fmt.Sprintf("0x%x\n", w.pid) }},
	{"time pid", func(w writer) string { return fmt.Sprintf("%s %d\n", w.when, w.pid) }},
	{"time, then a line with the pid", func(w writer) string { return fmt.Sprintf("%s\n%d\n", w.when, w.pid) }},
	{"root@host (pid)", func(w writer) string { return fmt.Sprintf("root@%s (%d)\n", w.host, w.pid) }},
	{"host pid time random", func(w writer) string { return fmt.Sprintf("%s %d %d.%06d 88fa3c\n", w.host, w.pid, epoch(), 402113) }},
	{"free text", func(w writer) string {
		return fmt.Sprintf("locked by the indexer (process %d), do not remove\n", w.pid)
	}},

	// This one has more than 256 bytes.
	{"postmaster.pid with a long path", func(w writer) string {
		path := "/srv/" + strings.Repeat("a-long-name/", 20)
		return fmt.Sprintf("%d\n%sdata\n%d\n5432\n%srun\n*\n  5432001         7\nready   \n", w.pid, path, epoch(), path)
	}},
}

// TestEveryFormIsUnderstood checks for every form of payload that no other process can take the lock away while
// its program lives, and that the next create succeeds once the program has been killed.
func TestEveryFormIsUnderstood(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	contender := harness.StartProcess(t)
	for _, restart := range harness.Restarts {
		t.Run(restart.Name, func(t *testing.T) {
			makers := make([]*harness.Process, len(forms))
			paths := make([]string, len(forms))
			for i, form := range forms {
				makers[i], paths[i] = harness.StartProcess(t), m.Path(strconv.Itoa(i)+".lock")
				text := strconv.Quote(form.text(writerOf(t, makers[i].PID())))
				makers[i].Must("ok", "take", paths[i], text)
			}
			restart.Do(m)
			verdicts := m.Verdicts()
			for i, form := range forms {
				t.Run(form.name, func(t *testing.T) {
					if l := verdicts[strconv.Itoa(i)+".lock"]; l.Verdict != "live" || l.Holder.PID != makers[i].PID() {
						t.Errorf("its maker is process %d; listed as %+v", makers[i].PID(), l)
					}
					for _, attempt := range [][]string{
						{"EEXIST", "take", paths[i]}, {"EBUSY", "remove", paths[i]}, {"EBUSY", "rename", paths[i], m.Path("away")}, {"EBUSY", "truncate", paths[i]},
					} {
						if answer := contender.Do(attempt[1:]...); answer != attempt[0] {
							t.Errorf("%s: %s, not %s", attempt[1], answer, attempt[0])
						}
					}
					makers[i].Kill()
					contender.Must("ok", "take", paths[i])
					contender.Must("ok", "remove", paths[i])
				})
			}
		})
	}
}
