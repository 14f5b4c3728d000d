//go:build linux

package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"latchfs/integration/harness"
)

func needBench(t *testing.T) {
	t.Helper()
	if os.Getenv("BENCH") == "" {
		t.Skip("make bench does it")
	}
}

// TestBenchHandoff measures the time from the release of a lock, or the death of its holder, until a waiting
// process has it, compared with flock(2) and with processes that poll.
func TestBenchHandoff(t *testing.T) {
	needBench(t)
	handoff := benchProgram(t, "handoff")
	m, beneath := harness.MountOver(t, t.TempDir(), "--log-level", "warning"), t.TempDir()
	ways := []struct {
		name string
		args []string // mode, file, and what the mode wants
	}{
		{"flock(2), blocking", []string{"flock", beneath + "/x"}},
		{"latchfs, .latchfs/wait", []string{"wait", m.Path("x.lock"), m.WaitFile("x.lock")}},
		{"latchfs, tried every 10 ms", []string{"poll", m.Path("x.lock"), "10000"}},
		{"latchfs, tried every 50 ms (as OpenClaw)", []string{"poll", m.Path("x.lock"), "50000"}},
	}
	const rounds, each = 7, 15
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "ended by\tway\tmedian us\tp95 us\ttimes flock's release\t")
	base := 0.0
	for _, how := range []string{"release", "kill"} {
		samples := make([][]float64, len(ways))
		for range rounds {
			for i, way := range ways {
				words := append([]string{handoff, way.args[0], how, strconv.Itoa(each)}, way.args[1:]...)
				samples[i] = append(samples[i], microseconds(t, words...)...)
			}
		}
		for i, way := range ways {
			median := quantile(samples[i], 0.5)
			if base == 0 {
				base = median
			}
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.1f\t\n", how, way.name, median, quantile(samples[i], 0.95), median/base)
		}
	}
	latch := harness.MountOver(t, t.TempDir(), "--log-level", "warning")
	for _, how := range []string{"release", "kill"} {
		for _, kind := range []string{"openclaw", "proper-lockfile"} {
			for name, dir := range map[string]string{"": beneath, " over latchfs": latch.Dir} {
				var samples []float64
				for i := range 3 {
					samples = append(samples, programHandoff(t, kind, how, filepath.Join(dir, fmt.Sprintf("%s%s%d", kind, how, i))))
				}
				median := quantile(samples, 0.5)
				fmt.Fprintf(w, "%s\t%s's own lock%s\t%.1f\t%.1f\t%.1f\t\n", how, kind, name, median, slices.Max(samples), median/base)
			}
		}
	}
	w.Flush()
	t.Log("\n" + table.String())
}

// programHandoff measures, in microseconds, the time from the release of a lock of OpenClaw's or npm's, or the
// death of its holder, until another process of the same program, which retries as usual, has it.
func programHandoff(t *testing.T, kind, how, file string) float64 {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	holder := startNodeLock(t, kind, file)
	holder.said(t, "held")
	contender := startNodeLock(t, kind, file, "PATIENT=1")
	time.Sleep(2 * time.Second) // until the other process tries, which nothing reports
	start := time.Now()
	if how == "kill" {
		_ = holder.cmd.Process.Kill()
	} else {
		fmt.Fprintln(holder.in)
	}
	contender.said(t, "held")
	took := time.Since(start)
	_ = holder.cmd.Wait()
	fmt.Fprintln(contender.in)
	_ = contender.cmd.Wait()
	return float64(took.Microseconds())
}

// A nodeLock is a process of node/lock.mjs.
type nodeLock struct {
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func startNodeLock(t *testing.T, kind, file string, env ...string) *nodeLock {
	t.Helper()
	l := &nodeLock{cmd: exec.Command(harness.Node(t), harness.NodePath("lock.mjs"), kind, file)}
	l.cmd.Env = append(os.Environ(), env...)
	l.cmd.Stderr = os.Stderr
	in, err := l.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = l.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	l.in, l.out = in, bufio.NewReader(out)
	return l
}

func (l *nodeLock) said(t *testing.T, want string) {
	t.Helper()
	if line, err := l.out.ReadString('\n'); strings.TrimSpace(line) != want {
		t.Fatalf("said %q, not %q: %v", line, want, err)
	}
}

// TestBenchClients measures the lock cycles per second of several processes, each with a name of its own: in one
// directory, which the kernel locks during each create and removal, and in a directory for each process.
func TestBenchClients(t *testing.T) {
	needBench(t)
	client := benchProgram(t, "client")
	all := slices.DeleteFunc(peers(t), func(p peer) bool { return p.name == "bindfs" })
	counts := []int{1, 2, 8, 64}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "peer\tnames in\tprocesses\tcycles a second\tof one's\t")
	for _, place := range []string{"one directory", "own directories"} {
		rates := make([][][]float64, len(all))
		for i := range all {
			rates[i] = make([][]float64, len(counts))
		}
		for range 7 {
			for n, count := range counts {
				for i, p := range all {
					rates[i][n] = append(rates[i][n], cycleRate(t, client, p.dir, count, place != "one directory"))
				}
			}
		}
		for i, p := range all {
			one := quantile(rates[i][0], 0.5)
			for n, count := range counts {
				rate := quantile(rates[i][n], 0.5)
				fmt.Fprintf(w, "%s\t%s\t%d\t%.0f\t%.2f\t\n", p.name, place, count, rate, rate/one)
			}
		}
	}
	w.Flush()
	t.Log("\n" + table.String())
}

// cycleRate returns the lock cycles per second of several processes.
func cycleRate(t *testing.T, client, dir string, processes int, apart bool) float64 {
	t.Helper()
	const cycles = 2048 // of all
	clients := make([]*exec.Cmd, processes)
	starts, answers := make([]io.WriteCloser, processes), make([]*bufio.Reader, processes)
	for i := range clients {
		name := fmt.Sprintf("%s/%d.lock", dir, i)
		if apart {
			own := fmt.Sprintf("%s/dir%d", dir, i)
			if err := os.Mkdir(own, 0o755); err != nil && !os.IsExist(err) {
				t.Fatal(err)
			}
			name = own + "/x.lock"
		}
		cmd := exec.Command(client, "cycle", strconv.Itoa(cycles/processes), name, "go")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		clients[i], starts[i], answers[i] = cmd, in, bufio.NewReader(out)
		if line, err := answers[i].ReadString('\n'); line != "ready\n" {
			t.Fatalf("%q: %v", line, err)
		}
	}
	start := time.Now()
	for _, in := range starts {
		_ = in.Close()
	}
	for i := range clients {
		if _, err := answers[i].ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	for _, cmd := range clients {
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	return cycles / took.Seconds()
}

// TestBenchData measures reads and writes of 1 GiB and of small pieces, in latchfs with and without passthrough
// descriptors, in a plain directory, and in passthrough_ll.
func TestBenchData(t *testing.T) {
	needBench(t)
	client := benchProgram(t, "client")
	all := slices.DeleteFunc(peers(t), func(p peer) bool {
		return strings.HasPrefix(p.name, "loopback") || strings.HasSuffix(p.name, "checked") || p.name == "bindfs"
	})
	plain := harness.MountOver(t, t.TempDir(), "--log-level", "warning", "--no-passthrough")
	all = append(all, peer{"latchfs, no passthrough", plain.Dir})
	kinds := []struct{ name, operation, file string }{
		{"write 1 GiB", "write-all", "data"},
		{"read 1 GiB", "read-all", "data"},
		{"20,000 random reads of 4 KiB", "read-pieces", "data"},
		{"20,000 random writes of 4 KiB", "write-pieces", "data"},
		{"20,000 appends of 300 bytes", "append-pieces", "session.jsonl"},
		{"map 1 GiB and read each page", "map", "data"},
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "data\tpeer\tmedian ms\tspeed, of beneath's\t")
	for _, k := range kinds {
		took := make([][]float64, len(all))
		for round := range 7 {
			for turn := range all {
				i := (turn + round) % len(all)
				took[i] = append(took[i], microseconds(t, client, k.operation, "1", all[i].dir+"/"+k.file)[0]/1000)
			}
		}
		base := quantile(took[0], 0.5)
		for i, p := range all {
			median := quantile(took[i], 0.5)
			fmt.Fprintf(w, "%s\t%s\t%.1f\t%.2f\t\n", k.name, p.name, median, base/median)
		}
	}
	w.Flush()
	t.Log("\n" + table.String())
}

// TestBenchManyLocks holds up to BENCH_LOCKS locks by 1,000 processes, and measures as they grow: the memory of
// one, and the time to take another, to compact the journal, to list them and to recover them.
func TestBenchManyLocks(t *testing.T) {
	needBench(t)
	client := benchProgram(t, "client")
	m := harness.MountOver(t, t.TempDir(), "--log-level", "info", "--log-format", "json")
	most := harness.EnvNumber(t, "BENCH_LOCKS", 100_000)
	holders := make([]*harness.Process, min(1000, most/100))
	for i := range holders {
		holders[i] = harness.StartProcess(t)
	}
	resident := func() int {
		server := m.Server()
		return harness.StatusNumber(t, fmt.Sprintf("/proc/%d/status", server), "VmRSS:")
	}
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.Server()))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	// cycles makes so many lock cycles that 20 are above the last quantile, and calls meanwhile repeatedly during
	// that time. each is the time of a call of meanwhile.
	cycles := func(meanwhile func() error) (median, p999 float64, each time.Duration) {
		const enough = 20_000
		var over atomic.Bool
		ended := make(chan error, 1)
		go func() {
			start := time.Now()
			for runs := 1; ; runs++ {
				err := meanwhile()
				if each = time.Since(start) / time.Duration(runs); err != nil || over.Load() {
					ended <- err
					return
				}
			}
		}()
		var took []float64
		for {
			took = append(took, microseconds(t, client, "cycle", "1000", m.Path("cycle.lock"))...)
			over.Store(len(took) >= enough)
			select {
			case err := <-ended:
				if err != nil {
					t.Error(err)
				}
				return quantile(took, 0.5), quantile(took, 0.999), each
			default:
			}
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "locks\tmedian us of a cycle\tp99.9 us\tresident, bytes a lock\tdescriptors\tcompaction, ms\tp99.9 us during it\tlatchfs ls, ms\tp99.9 us during it\trecovery, ms\t")
	emptyKiB, held := resident(), 0
	for _, n := range append([]int{0}, 100, 1000, 10_000, 100_000, 1_000_000) {
		if n > most {
			break
		}
		each := (n - held) / len(holders)
		if n > 0 && each == 0 {
			each = 1
		}
		var all sync.WaitGroup
		for i, p := range holders {
			if each > 0 && held+each*(i+1) <= n {
				all.Go(func() { p.Must("ok", "hoard", m.Path(fmt.Sprintf("%d-%d", i, n)), strconv.Itoa(each)) })
			}
		}
		all.Wait()
		if held = harness.StatusNumber(t, m.Path(".latchfs/status"), `  "locks":`); held < n*9/10 {
			t.Fatalf("%d locks of %d", held, n)
		}
		median, p999, _ := cycles(func() error { time.Sleep(10 * time.Millisecond); return nil })
		bytes := 0
		if held > 0 {
			bytes = (resident() - emptyKiB) * 1024 / held
		}
		_, duringCompaction, compacted := cycles(func() error { return os.WriteFile(m.Path(".latchfs/ctl"), []byte("compact"), 0) })
		_, duringListing, listed := cycles(func() error { return exec.Command(harness.Latchfs, "ls", m.Dir).Run() })
		start := time.Now()
		m.KillServer()
		m.WaitUntilServed()
		recovered := time.Since(start)
		if now := harness.StatusNumber(t, m.Path(".latchfs/status"), `  "locks":`); now != held {
			t.Errorf("%d locks of %d after the restart", now, held)
		}
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%d\t%d\t%d\t%.0f\t%d\t%.0f\t%d\t\n", held, median, p999, bytes, descriptors(),
			compacted.Milliseconds(), duringCompaction, listed.Milliseconds(), duringListing, recovered.Milliseconds())
	}
	w.Flush()
	t.Log("\n" + table.String())
	for _, p := range holders {
		p.Kill()
	}
	start := time.Now()
	left := held
	for deadline := start.Add(15 * time.Minute); left > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
		left = harness.StatusNumber(t, m.Path(".latchfs/status"), `  "locks":`)
	}
	t.Logf("%d of %d locks of %d processes that were killed were reaped in %v", held-left, held, len(holders), time.Since(start).Round(time.Millisecond))
}
