package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	latch "latchfs/fs"
	"latchfs/lockstore"
)

// TestWhy compares what is said of each verdict and reason with testdata/why; with UPDATE=1 it writes that.
func TestWhy(t *testing.T) {
	time.Local = time.UTC
	now := time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)
	holder := latch.ProcessInfo{PID: 4711, UID: 4294967290, Command: "openclaw"}
	lock := func(verdict lockstore.Verdict, reason lockstore.Reason, rule lockstore.Rule, evidence string) *latch.LockInfo {
		l := &latch.LockInfo{Name: "s.lock", Verdict: verdict.String(), Reason: string(reason), Rule: string(rule), Evidence: evidence, Made: now.Add(-95 * time.Second)}
		if rule != lockstore.RuleNobody {
			l.Holder = holder
		}
		return l
	}
	reclaimed := func(reason lockstore.Reason) *latch.LockInfo {
		l := lock(lockstore.Stale, reason, lockstore.RuleNamed, "process 4711(openclaw)@88 has ended")
		at := now.Add(-5 * time.Second)
		l.ReclaimedAt = &at
		return l
	}
	runs := "process 4711(openclaw)@88 runs"
	cases := map[string]whyCase{
		"free":            {},
		"live-named":      {Lock: lock(lockstore.Live, "", lockstore.RuleNamed, runs)},
		"live-creator":    {Lock: lock(lockstore.Live, "", lockstore.RuleCreator, runs)},
		"live-descriptor": {Lock: lock(lockstore.Live, "", lockstore.RuleDescriptor, "its creator 12(sh)@80 has ended, the descriptor it was made with is open")},
		"live-ancestor":   {Lock: lock(lockstore.Live, "", lockstore.RuleAncestor, "its creator 12(mkdir)@80 has ended, its ancestor 4711(openclaw)@88 runs")},
		"unknown":         {Lock: lock(lockstore.Unknown, "", lockstore.RuleNobody, "its creator could not be identified")},
		"unmanaged":       {Lock: &latch.LockInfo{Verdict: "unmanaged", Payload: "empty", Made: now.Add(-48 * time.Hour)}},
		"flock": {Lock: &latch.LockInfo{Verdict: "unmanaged", Payload: "empty", Made: now.Add(-time.Minute), LockedBy: []latch.KernelLock{
			{Type: "FLOCK", Access: "WRITE", PID: 12, Command: "cargo"}, {Type: "FLOCK", Access: "WRITE", PID: 13, Command: "cargo", Waiting: true}}}},
		"odd-name": {File: "a\x1b[2J.lock", Lock: lock(lockstore.Live, "", lockstore.RuleCreator, runs)},
	}
	for _, reason := range []lockstore.Reason{
		lockstore.BootIDMismatch, lockstore.DeadPID, lockstore.RecycledPID, lockstore.BeforeBoot, lockstore.MissingPID, lockstore.InvalidCreatedAt, lockstore.TooOld,
	} {
		cases["stale-"+string(reason)] = whyCase{Lock: lock(lockstore.Stale, reason, lockstore.RuleNamed, "process 4711(openclaw)@88 has ended")}
		cases["free-"+string(reason)] = whyCase{Last: reclaimed(reason)}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.File == "" {
				c.File = "sessions/s.lock"
			}
			c.Status.StaleAfter = 1800
			golden := filepath.Join("testdata", "why", name+".txt")
			said := c.explain(now)
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(golden, []byte(said), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || said != string(want) {
				t.Errorf("said\n%s\nnot\n%s (%v)", said, want, err)
			}
		})
	}
}
