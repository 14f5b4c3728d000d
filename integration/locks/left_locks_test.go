//go:build linux

package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// claim is what a program with a pid writes into the lock that it takes for somebody else.
func claim(pid int) string { return fmt.Sprintf(`{"claimId":"c","pid":%d}`, pid) }

// TestFinishedCommandKeepsItsLock: a command that takes a lock, names itself in it and ends with status 0 left
// it on purpose. Nobody is known to hold it, contenders find it, and whoever may remove the file may.
func TestFinishedCommandKeepsItsLock(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	for i, restart := range restarts {
		for _, when := range []string{"after", "before"} {
			t.Run(restart.name+" "+when+" its end", func(t *testing.T) {
				name := fmt.Sprintf("%d-%s.lock", i, when)
				lock := m.path(name)
				command, contender := newLocker(t), newLocker(t)
				command.must("ok", "take", lock, claim(command.pid()))
				if l := m.verdicts()[name]; l.Verdict != "live" || l.Holder.PID != command.pid() {
					t.Errorf("while the command runs: %+v", l)
				}
				if when == "before" {
					restart.do(m)
				}
				command.exit()
				contender.must("EEXIST", "take", lock)
				if when == "after" {
					restart.do(m)
				}
				if l := m.verdicts()[name]; l.Verdict != "unknown" || l.Reason != "left" {
					t.Errorf("listed as %+v", l)
				}
				holds(t, lock, claim(command.pid()))
				contender.must("EEXIST", "take", lock)
				contender.must("ok", "remove", lock)
				contender.must("ok", "take", lock)
			})
		}
	}
}

// TestFailedCommandLosesItsLock: one that ends with another status, or is killed, left it not on purpose.
func TestFailedCommandLosesItsLock(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	for _, restart := range restarts {
		t.Run(restart.name, func(t *testing.T) {
			failing, killed, contender := newLocker(t), newLocker(t), newLocker(t)
			failing.must("ok", "take", m.path("failing.lock"), claim(failing.pid()))
			killed.must("ok", "take", m.path("killed.lock"), claim(killed.pid()))
			restart.do(m)
			failing.fail(3)
			contender.must("ok", "take", m.path("failing.lock"))
			killed.kill()
			contender.must("ok", "take", m.path("killed.lock"))
			contender.must("ok", "remove", m.path("failing.lock"))
			contender.must("ok", "remove", m.path("killed.lock"))
		})
	}
	reaped := 0
	for _, l := range m.listed() {
		if l.ReclaimedAt != nil && l.Reason == "dead-pid" {
			reaped++
		}
	}
	if kept := reclaimedFiles(t, m); reaped == 0 || len(kept) != 2*len(restarts) {
		t.Errorf("%d are listed with their reason, %d were kept aside", reaped, len(kept))
	}
}

// TestHeartbeatRenewsALockThatWasLeft, by commands that have nothing to do with each other; without it age
// ends the lock.
func TestHeartbeatRenewsALockThatWasLeft(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	m := mountOver(t, t.TempDir(), "--stale-after", limit.String())
	// In a session of its own: while one of its group runs, a lock does not get too old.
	m.mustDo(`setsid -w sh -c 'set -C; echo "{\"claimId\":\"c\",\"pid\":$$}" >x.lock'`)
	var renewed time.Time
	for start := time.Now(); time.Since(start) < 2*limit; time.Sleep(limit / 8) {
		if l := m.verdicts()["x.lock"]; l.Verdict != "unknown" || l.Reason != "left" {
			t.Fatalf("after %v: %+v", time.Since(start), l)
		}
		renewed = time.Now()
		m.mustDo("touch x.lock")
	}
	eventually(t, "it is free", func() bool { return !exists(m.path("x.lock")) })
	if age := time.Since(renewed); age < limit {
		t.Errorf("it was free %v after the last heartbeat", age)
	}
	if kept := reclaimedFiles(t, m); len(kept) != 1 {
		t.Errorf("%d were kept aside", len(kept))
	}
}

// TestAccidentIsNoLock: data in which the number of its maker occurs settles when the maker ends of itself,
// with whatever status, and goes when the maker is killed, as it may be the maker's lock.
func TestAccidentIsNoLock(t *testing.T) {
	t.Parallel()
	m := mountOver(t, t.TempDir())
	for _, end := range []struct {
		name string
		do   func(p *process)
		take string // what a contender's take is answered then
	}{
		{"ends", (*process).exit, "EEXIST"},
		{"fails", func(p *process) { p.fail(1) }, "EEXIST"},
		{"killed", (*process).kill, "ok"},
	} {
		for _, restart := range restarts {
			t.Run(end.name+", "+restart.name, func(t *testing.T) {
				maker, contender := newLocker(t), newLocker(t)
				name := end.name + "," + strings.ReplaceAll(restart.name, " ", "-") + ".lock"
				lock := m.path(name)
				text := fmt.Sprintf("name = \"x\"\nsize = %d\n", maker.pid())
				maker.must("ok", "take", lock, fmt.Sprintf("%q", text))
				contender.must("EBUSY", "remove", lock)
				restart.do(m)
				end.do(maker)
				contender.must(end.take, "take", lock)
				if end.take == "EEXIST" {
					eventually(t, "it is nobody's", func() bool { return m.verdicts()[name].Verdict == "settled" })
					holds(t, lock, text)
				}
				contender.must("ok", "remove", lock)
			})
		}
	}
}
