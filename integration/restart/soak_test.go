//go:build linux

package restart

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"latchfs/integration/harness"
)

// figures are the figures that must not grow.
type figures struct {
	descriptors, callers, pidfds, goroutines, inodes, handles int
	server, keeper                                            int // KiB resident
	journal                                                   int // KiB
}

// readFigures reads the figures once the kernel has dropped its caches, and latchfs with them.
func readFigures(m *harness.Mount, base *figures) (f figures) {
	m.T.Helper()
	read := func() bool {
		_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0)
		var status struct {
			Inodes, Handles, Goroutines int
		}
		text, err := os.ReadFile(m.Path(".latchfs/status"))
		if err == nil {
			err = json.Unmarshal(text, &status)
		}
		if err != nil {
			m.T.Fatal(err)
		}
		server := m.Server()
		f = figures{goroutines: status.Goroutines, inodes: status.Inodes, handles: status.Handles}
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", server))
		for _, link := range links {
			to, err := os.Readlink(link)
			switch {
			case err != nil:
			case strings.HasSuffix(to, "/comm"): // latchfs has up to 256 of these, for callers
				f.callers++
			case strings.Contains(to, "pidfd"):
				f.pidfds++
			default:
				f.descriptors++
			}
		}
		f.server = harness.StatusNumber(m.T, fmt.Sprintf("/proc/%d/status", server), "VmRSS:")
		f.keeper = harness.StatusNumber(m.T, fmt.Sprintf("/proc/%d/status", m.Keeper.Process.Pid), "VmRSS:")
		if info, err := os.Stat(filepath.Join(m.StateDir, "journal")); err == nil {
			f.journal = int(info.Size() >> 10)
		}
		return base == nil || f.settled(*base) == ""
	}
	for deadline := time.Now().Add(40 * time.Second); !read() && time.Now().Before(deadline); {
		time.Sleep(500 * time.Millisecond)
	}
	return f
}

// settled returns the first figure that has grown, or an empty text.
func (f figures) settled(base figures) string {
	for _, c := range []struct {
		what     string
		is, most int
	}{
		// go-fuse keeps as many pairs of pipes as there have been concurrent reads.
		{"descriptors", f.descriptors, base.descriptors + 32},
		{"callers", f.callers, 256},
		{"pidfds", f.pidfds, base.pidfds + 2},
		{"goroutines", f.goroutines, base.goroutines + 8},
		{"inodes", f.inodes, base.inodes + 8},
		{"handles", f.handles, base.handles + 1},
		{"server", f.server, base.server + 24<<10},
		{"keeper", f.keeper, 16 << 10},
		{"journal", f.journal, 2 << 10},
	} {
		if c.is > c.most {
			return fmt.Sprintf("%s: %d, not at most %d", c.what, c.is, c.most)
		}
	}
	return ""
}

// TestSoak checks that nothing has grown after a mixed load for the time SOAK, in which clients are killed all the
// time, and servers in the first half.
func TestSoak(t *testing.T) {
	if harness.RaceEnabled {
		t.Skip("the race detector has memory of its own: make test and make soak do it")
	}
	length := 8 * time.Second
	if text := os.Getenv("SOAK"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	m := harness.MountOver(t, t.TempDir())
	var names []string
	for i := range 12 {
		names = append(names, m.Path(fmt.Sprintf("%d.lock", i)))
	}
	takes, kills := 0, 0
	round := func(length time.Duration, killed bool) {
		dir := m.Path("load")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		l := startLoad(t, dir)
		stop := make(chan struct{})
		killing := func() int { return 0 }
		if killed {
			killing = m.KillServerRepeatedly(stop, 100*time.Millisecond, 2*time.Second)
		}
		var all sync.WaitGroup
		clients := startClients(t, &all, stop, names, make([]atomic.Int32, len(names)))
		time.Sleep(length)
		close(stop)
		all.Wait()
		kills += killing()
		for _, c := range clients {
			takes += c.takes
			c.p.Kill()
		}
		l.end()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		m.CheckNothingLeft()
	}
	round(time.Second, true)
	base := readFigures(m, nil)

	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "after\tservers killed\tlocks taken\tdescriptors\tcallers\tpidfds\tgoroutines\tinodes\thandles\tserver KiB\tkeeper KiB\tjournal KiB\t")
	line := func(after time.Duration, f figures) {
		fmt.Fprintf(w, "%v\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t\n", after.Round(time.Second), kills, takes,
			f.descriptors, f.callers, f.pidfds, f.goroutines, f.inodes, f.handles, f.server, f.keeper, f.journal)
	}
	line(0, base)
	const rounds = 8
	start := time.Now()
	for i := range rounds {
		round(length/rounds, i < rounds/2)
		f := readFigures(m, &base)
		line(time.Since(start), f)
		if grown := f.settled(base); grown != "" {
			t.Error(grown)
		}
	}
	w.Flush()
	t.Log("\n" + table.String())
}
