//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestManyLeftBehind: 10,000 lock files from before, half of them stale, among 10,000 that are
// data. All are judged, and rightly, by the first listing.
func TestManyLeftBehind(t *testing.T) {
	files := 10_000
	if testing.Short() || raceEnabled {
		files = 1000
	}
	dir := t.TempDir()
	dead := deadPID(t)
	live := exec.Command("sleep", "1000")
	if err := live.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = live.Process.Kill(); _ = live.Wait() }()
	payload := func(i int) string {
		switch {
		case i < files/2:
			return fmt.Sprintf(`{"pid":%d,"createdAt":"2026-01-01T00:00:00Z"}`, dead)
		case i < files:
			return fmt.Sprintln(live.Process.Pid)
		}
		return fmt.Sprintf("[[package]]\nname = %q\n", fmt.Sprint(i))
	}
	name := func(i int) string { return fmt.Sprintf("%05d.lock", i) }
	for i := range 2 * files {
		if err := os.WriteFile(filepath.Join(dir, name(i)), []byte(payload(i)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	beneath := listings(t, dir)
	m := mountOver(t, dir)
	first := listings(t, m.dir, 1)
	later := listings(t, m.dir)
	t.Logf("ls -l of %d lock files: beneath %v; in the mount at first %v (%.1f times), then %v (%.1f times)", 2*files,
		beneath, first, ratio(first, beneath), later, ratio(later, beneath))
	for i := range 2 * files {
		text, err := os.ReadFile(m.path(name(i)))
		if i < files/2 {
			if !os.IsNotExist(err) {
				t.Fatalf("%s: stale and there: %v", name(i), err)
			}
		} else if err != nil || string(text) != payload(i) {
			t.Fatalf("%s: %q %v", name(i), text, err)
		}
	}
	if locks := m.locks(); len(locks) != files/2 {
		t.Errorf("%d are held", len(locks))
	}
	if kept := reclaimedFiles(t, m); len(kept) != min(files/2, 1000) {
		t.Errorf("%d are kept", len(kept))
	}
}

// listings is the median time of some runs of ls -l, 5 if their number is not given.
func listings(t *testing.T, dir string, runs ...int) time.Duration {
	t.Helper()
	n := 5
	if len(runs) > 0 {
		n = runs[0]
	}
	var times []time.Duration
	for range n {
		start := time.Now()
		out, err := exec.Command("ls", "-l", dir).Output()
		if err != nil || !strings.HasPrefix(string(out), "total") {
			t.Fatalf("ls: %v", err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2].Round(time.Millisecond)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
