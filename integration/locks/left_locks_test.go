//go:build linux

package locks

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"latchfs/integration/harness"
)

// claim is the payload of a program that takes a lock for another process.
func claim(pid int) string { return fmt.Sprintf(`{"claimId":"c","pid":%d}`, pid) }

// TestFinishedCommandKeepsItsLock runs a command that takes a lock, names itself in it and exits with status 0.
// The lock stays, as the command must have meant it to. Its holder is unknown, contenders find it taken, and any
// process that may remove the file may remove the lock.
func TestFinishedCommandKeepsItsLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for i, restart := range harness.Restarts {
		for _, when := range []string{"after", "before"} {
			t.Run(restart.Name+" "+when+" its end", func(t *testing.T) {
				name := fmt.Sprintf("%d-%s.lock", i, when)
				lock := m.Path(name)
				command, contender := harness.StartProcess(t), harness.StartProcess(t)
				command.Must("ok", "take", lock, claim(command.PID()))
				if l := m.Verdicts()[name]; l.Verdict != "live" || l.Holder.PID != command.PID() {
					t.Errorf("while the command runs: %+v", l)
				}
				if when == "before" {
					restart.Do(m)
				}
				command.Exit()
				contender.Must("EEXIST", "take", lock)
				if when == "after" {
					restart.Do(m)
				}
				if l := m.Verdicts()[name]; l.Verdict != "unknown" || l.Reason != "left" {
					t.Errorf("listed as %+v", l)
				}
				harness.CheckContent(t, lock, claim(command.PID()))
				contender.Must("EEXIST", "take", lock)
				contender.Must("ok", "remove", lock)
				contender.Must("ok", "take", lock)
			})
		}
	}
}

// TestFailedCommandLosesItsLock checks that the lock goes if such a command exits with another status or is
// killed.
func TestFailedCommandLosesItsLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, restart := range harness.Restarts {
		t.Run(restart.Name, func(t *testing.T) {
			failing, killed, contender := harness.StartProcess(t), harness.StartProcess(t), harness.StartProcess(t)
			failing.Must("ok", "take", m.Path("failing.lock"), claim(failing.PID()))
			killed.Must("ok", "take", m.Path("killed.lock"), claim(killed.PID()))
			restart.Do(m)
			failing.ExitWith(3)
			contender.Must("ok", "take", m.Path("failing.lock"))
			killed.Kill()
			contender.Must("ok", "take", m.Path("killed.lock"))
			contender.Must("ok", "remove", m.Path("failing.lock"))
			contender.Must("ok", "remove", m.Path("killed.lock"))
		})
	}
	reaped := 0
	for _, l := range m.List() {
		if l.ReclaimedAt != nil && l.Reason == "dead-pid" {
			reaped++
		}
	}
	if kept := harness.ReclaimedFiles(t, m); reaped == 0 || len(kept) != 2*len(harness.Restarts) {
		t.Errorf("%d are listed with their reason, %d were kept aside", reaped, len(kept))
	}
}

// TestHeartbeatRenewsALockThatWasLeft renews such a lock through unrelated commands. Without a heartbeat its age
// ends it.
func TestHeartbeatRenewsALockThatWasLeft(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	m := harness.MountOver(t, t.TempDir(), "--stale-after", limit.String())
	// The command has a session of its own, because a lock does not get too old while a process of its group runs.
	m.MustRun(`setsid -w sh -c 'set -C; echo "{\"claimId\":\"c\",\"pid\":$$}" >x.lock'`)
	var renewed time.Time
	for start := time.Now(); time.Since(start) < 2*limit; time.Sleep(limit / 8) {
		if l := m.Verdicts()["x.lock"]; l.Verdict != "unknown" || l.Reason != "left" {
			t.Fatalf("after %v: %+v", time.Since(start), l)
		}
		renewed = time.Now()
		m.MustRun("touch x.lock")
	}
	harness.Eventually(t, "it is free", func() bool { return !harness.Exists(m.Path("x.lock")) })
	if age := time.Since(renewed); age < limit {
		t.Errorf("it was free %v after the last heartbeat", age)
	}
	if kept := harness.ReclaimedFiles(t, m); len(kept) != 1 {
		t.Errorf("%d were kept aside", len(kept))
	}
}

// TestAccidentIsNoLock checks data that happens to contain the pid of its creator. It settles if the creator
// exits, with any status. It is removed if the creator is killed, because it may be the creator's lock.
func TestAccidentIsNoLock(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, end := range []struct {
		name string
		do   func(p *harness.Process)
		take string // the answer to a contender's take afterwards
	}{
		{"ends", (*harness.Process).Exit, "EEXIST"},
		{"fails", func(p *harness.Process) { p.ExitWith(1) }, "EEXIST"},
		{"killed", (*harness.Process).Kill, "ok"},
	} {
		for _, restart := range harness.Restarts {
			t.Run(end.name+", "+restart.Name, func(t *testing.T) {
				maker, contender := harness.StartProcess(t), harness.StartProcess(t)
				name := end.name + "," + strings.ReplaceAll(restart.Name, " ", "-") + ".lock"
				lock := m.Path(name)
				text := fmt.Sprintf("name = \"x\"\nsize = %d\n", maker.PID())
				maker.Must("ok", "take", lock, fmt.Sprintf("%q", text))
				contender.Must("EBUSY", "remove", lock)
				restart.Do(m)
				end.do(maker)
				contender.Must(end.take, "take", lock)
				if end.take == "EEXIST" {
					harness.Eventually(t, "it has settled", func() bool { return m.Verdicts()[name].Verdict == "settled" })
					harness.CheckContent(t, lock, text)
				}
				contender.Must("ok", "remove", lock)
			})
		}
	}
}
