package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"latchfs/fs/control"
	"latchfs/lockstore/verdict"
)

// TestWhy compares the explanation of each verdict and reason with testdata/why. With UPDATE=1 it writes these files.
func TestWhy(t *testing.T) {
	time.Local = time.UTC
	now := time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)
	holder := control.ProcessInfo{PID: 4711, UID: 4294967290, Command: "openclaw"}
	lock := func(v verdict.Verdict, reason verdict.Reason, rule verdict.Rule, evidence string) *control.LockInfo {
		l := &control.LockInfo{Name: "s.lock", Verdict: v.String(), Reason: string(reason), Rule: string(rule), Evidence: evidence, Made: now.Add(-95 * time.Second)}
		if rule != verdict.RuleNobody {
			l.Holder = holder
		}
		return l
	}
	reclaimed := func(reason verdict.Reason) *control.LockInfo {
		l := lock(verdict.Stale, reason, verdict.RuleNamed, "process 4711(openclaw)@88 has ended")
		at := now.Add(-5 * time.Second)
		l.ReclaimedAt = &at
		return l
	}
	inherited := func(openedBy ...control.ProcessInfo) *control.LockInfo {
		l := lock(verdict.Live, "", verdict.RuleDescriptor, "its creator 4711(openclaw)@88 has ended, the descriptor it was made with is open")
		l.HolderEnded, l.OpenedBy = true, openedBy
		return l
	}
	left := lock(verdict.Unknown, verdict.Left, verdict.RuleNamed, "process 4711(openclaw)@88 has ended and left it")
	touched := now.Add(-10 * time.Minute)
	left.HolderEnded, left.Since = true, &touched
	runs := "process 4711(openclaw)@88 runs"
	cases := map[string]whyCase{
		"free":            {},
		"live-named":      {Lock: lock(verdict.Live, "", verdict.RuleNamed, runs)},
		"live-creator":    {Lock: lock(verdict.Live, "", verdict.RuleCreator, runs)},
		"live-descriptor": {Lock: inherited(control.ProcessInfo{PID: 12, UID: 4294967290, Command: "sleep"}, control.ProcessInfo{PID: 13, UID: 4294967290, Command: "cat"})},
		"live-in-flight":  {Lock: inherited()},
		"left":            {Lock: left},
		"live-ancestor":   {Lock: lock(verdict.Live, "", verdict.RuleAncestor, "its creator 12(mkdir)@80 has ended, its ancestor 4711(openclaw)@88 runs")},
		"unknown":         {Lock: lock(verdict.Unknown, "", verdict.RuleNobody, "its creator could not be identified")},
		"settled":         {Lock: &control.LockInfo{Verdict: "settled", Payload: "empty", Made: now.Add(-48 * time.Hour)}},
		"flock": {Lock: &control.LockInfo{Verdict: "settled", Payload: "empty", Made: now.Add(-time.Minute), LockedBy: []control.KernelLock{
			{Type: "FLOCK", Access: "WRITE", PID: 12, Command: "cargo"}, {Type: "FLOCK", Access: "WRITE", PID: 13, Command: "cargo", Waiting: true}}}},
		"flock-inherited": {Lock: &control.LockInfo{Verdict: "settled", Payload: "empty", Made: now.Add(-time.Minute), LockedBy: []control.KernelLock{
			{Type: "FLOCK", Access: "WRITE", PID: 12, OpenedBy: []control.ProcessInfo{{PID: 13, UID: 4294967290, Command: "sleep"}}}}}},
		"odd-name": {File: "a\x1b[2J.lock", Lock: lock(verdict.Live, "", verdict.RuleCreator, runs)},
	}
	for _, reason := range verdict.Reasons(verdict.Stale) {
		cases["stale-"+string(reason)] = whyCase{Lock: lock(verdict.Stale, reason, verdict.RuleNamed, "process 4711(openclaw)@88 has ended")}
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
				t.Errorf("printed\n%s\nwant\n%s (%v)", said, want, err)
			}
		})
	}
}
