package main

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"latchfs/fs/control"
)

// TestColumnsFitATerminal: names give way, the rest is lined up, and colours are for terminals.
func TestColumnsFitATerminal(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	locks := []control.LockInfo{
		{Name: "agents/main/sessions/" + strings.Repeat("0123456789", 10) + ".jsonl.lock", Verdict: "live", Holder: control.ProcessInfo{PID: 12345, Command: "openclaw-gatewa"}, Made: now},
		{Name: "x.lock", Verdict: "stale", Reason: "boot-id-mismatch", Made: now.Add(-time.Hour), LockedBy: []control.KernelLock{{Type: "FLOCK", Access: "WRITE", PID: 7}}},
	}
	for _, c := range []struct {
		look   style
		widest int
	}{{style{}, 200}, {style{width: 100}, 100}, {style{width: 100, colour: true}, 100}, {style{width: 20}, 79}} {
		var out strings.Builder
		if err := printLocks(&out, locks, now, c.look); err != nil {
			t.Fatal(err)
		}
		text := out.String()
		if coloured := strings.Contains(text, colourGreen+"live"+colourNone); coloured != c.look.colour {
			t.Errorf("%+v: %q", c.look, text)
		}
		for _, colour := range []string{colourNone, colourRed, colourGreen} {
			text = strings.ReplaceAll(text, colour, "")
		}
		lines := strings.Split(strings.TrimSpace(text), "\n")
		at := strings.Index(lines[0], "PID")
		for i, line := range lines {
			if utf8.RuneCountInString(line) > c.widest {
				t.Errorf("%+v: line of %d columns: %s", c.look, utf8.RuneCountInString(line), line)
			}
			if pid := []string{"PID", "12345", "-", "7"}[i]; !strings.HasPrefix(string([]rune(line)[at:]), pid) {
				t.Errorf("%+v: %s is not lined up in %s", c.look, pid, line)
			}
		}
		if short := strings.Contains(lines[1], "…"); short != (c.look.width > 0) || !strings.Contains(lines[1], ".jsonl.lock  ") {
			t.Errorf("%+v: %s", c.look, lines[1])
		}
	}
}
