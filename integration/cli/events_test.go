//go:build linux

package cli

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestEvents checks that a reader of events sees everything that happens, in order.
func TestEvents(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	type event struct {
		Event, Name, Reason string
		Holder, By          struct{ PID int }
	}
	tail := exec.Command("cat", m.Path(".latchfs/events"))
	out, err := tail.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tail.Process.Kill(); _ = tail.Wait() })
	events := make(chan event, 10_000)
	go func() {
		defer close(events)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Errorf("%s: %v", lines.Text(), err)
			}
			events <- e
		}
	}()
	next := func() event {
		t.Helper()
		select {
		case e, ok := <-events:
			if !ok {
				t.Fatal("the events ended")
			}
			return e
		case <-time.After(time.Minute):
			t.Fatal("no event for a minute")
		}
		return event{}
	}
	idle, err := os.Open(m.Path(".latchfs/events")) // a reader that does not read delays no other process
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	harness.Eventually(t, "the reader reads", func() bool { return harness.IsWaiting(tail.Process.Pid) })
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	path := m.Path("x.lock")
	const rounds = 300
	for range rounds {
		holder.Must("ok", "take", path)
		other.Must("EEXIST", "take", path)
		other.Must("EBUSY", "remove", path)
		holder.Must("ok", "remove", path)
	}
	holder.Must("ok", "take", path)
	holder.Kill()
	want := []string{}
	for range rounds {
		want = append(want, "acquired", "contended", "refused", "released")
	}
	for i, what := range append(want, "acquired", "reaped") {
		e := next()
		if e.Event != what || e.Name != "x.lock" || e.Holder.PID != holder.PID() {
			t.Fatalf("event %d is %+v, not %s", i, e, what)
		}
		if (what == "contended" || what == "refused") && e.By.PID != other.PID() {
			t.Fatalf("event %d is by %d, not %d", i, e.By.PID, other.PID())
		}
		if what == "reaped" && e.Reason != "dead-pid" {
			t.Errorf("reaped for %q", e.Reason)
		}
	}
	m.KillServer()
	m.WaitUntilServed()
	if e := next(); e.Event != "restarted" {
		t.Errorf("after a restart: %+v", e)
	}
	other.Must("ok", "take", path)
	if e := next(); e.Event != "acquired" || e.Holder.PID != other.PID() {
		t.Errorf("%+v", e)
	}
}

// TestSlowReaderOfEvents checks that a slow reader loses events, learns how many, and delays no other process.
func TestSlowReaderOfEvents(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	file, err := os.Open(m.Path(".latchfs/events"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if n, err := unix.Read(int(file.Fd()), nil); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	const cycles = 3000
	holder := harness.StartProcess(t)
	holder.Must("ok", "cycle", m.Path("x.lock"), strconv.Itoa(cycles))
	holder.Must("ok", "take", m.Path("last.lock"))
	seen, lost := 0, 0
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var e struct {
			Event, Name string
			Lost        int
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		switch {
		case e.Event == "lost":
			lost += e.Lost
		default:
			seen++
		}
		if seen+lost >= 2*cycles || e.Name == "last.lock" {
			break
		}
	}
	// The number of events lost at the end comes with the next event.
	if lost == 0 || seen == 0 || seen+lost > 2*cycles+1 {
		t.Errorf("%d seen, %d lost of %d", seen, lost, 2*cycles+1)
	}
}
