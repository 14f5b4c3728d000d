//go:build linux

package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// A peer is a directory that a filesystem serves.
type peer struct {
	name string
	dir  string
}

// startPeer runs a filesystem over a directory until the end of the test.
func startPeer(t *testing.T, name string, command func(from, to string) []string) peer {
	t.Helper()
	from, to := t.TempDir(), t.TempDir()
	words := command(from, to)
	cmd := exec.Command(words[0], words[1:]...)
	var out harness.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var before unix.Stat_t
	if err := unix.Stat(filepath.Dir(to), &before); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, name+" is mounted", func() bool {
		var st unix.Stat_t
		return unix.Stat(to, &st) == nil && st.Dev != before.Dev
	})
	t.Cleanup(func() {
		if err := unix.Unmount(to, 0); err != nil {
			t.Errorf("A MOUNT IS LEFT BEHIND at %s: %v: %s", to, err, out.String())
		}
		<-ended
	})
	return peer{name, to}
}

// peers returns a plain directory, latchfs, and other filesystems over a directory.
func peers(t *testing.T) []peer {
	t.Helper()
	all := []peer{{"beneath", t.TempDir()}, {"latchfs", harness.MountOver(t, t.TempDir(), "--log-level", "warning").Dir}}
	bin := t.TempDir()
	loopback := filepath.Join(bin, "loopback")
	if out, err := exec.Command("go", "build", "-o", loopback, "github.com/hanwen/go-fuse/v2/example/loopback").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all = append(all, startPeer(t, "loopback", func(from, to string) []string { return []string{loopback, "-q", "-directmount", to, from} }),
		// This one has the kernel check permissions, as latchfs does. The kernel then asks for the attributes of a
		// directory after each change in it.
		startPeer(t, "loopback, checked", func(from, to string) []string {
			return []string{loopback, "-q", "-allow-other", "-directmount", to, from}
		}))
	source := "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"
	passthrough := filepath.Join(bin, "passthrough_ll")
	if out, err := exec.Command("sh", "-c", `gcc -O2 "$0" $(pkg-config fuse3 --cflags --libs) -o "$1"`, source, passthrough).CombinedOutput(); err != nil {
		harness.FailOrSkip(t, fmt.Sprintf("passthrough_ll: %v: %s; run make bench", err, out))
	}
	all = append(all, startPeer(t, "passthrough_ll", func(from, to string) []string { return []string{passthrough, "-f", "-o", "source=" + from, to} }))
	all = append(all, startPeer(t, "passthrough_ll, checked", func(from, to string) []string {
		return []string{passthrough, "-f", "-o", "default_permissions,source=" + from, to}
	}))
	harness.NeedProgram(t, "bindfs")
	return append(all, startPeer(t, "bindfs", func(from, to string) []string { return []string{"bindfs", "-f", from, to} }))
}

// A workload is an operation to be measured, by testdata/client.c or by do.
type workload struct {
	name   string
	rounds int // operations in a round
	// prepare prepares a directory once, and before prepares it for each round.
	prepare, before func(t *testing.T, dir string)

	operation string // of the client
	file      string // the file of the operation
	do        func(dir string) error
}

var payload100 = []byte(strings.Repeat("p", 99) + "\n")

func create(path string, flags int, text []byte) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	if _, err = unix.Write(fd, text); err != nil {
		err = fmt.Errorf("write: %w", err)
	}
	return errors.Join(err, unix.Close(fd))
}

func fill(t *testing.T, dir string, files int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := create(fmt.Sprintf("%s/file%d", dir, i), 0, payload100); err != nil {
			t.Fatalf("%s, file %d: %v", dir, i, err)
		}
	}
}

var workloads = []workload{
	{name: "lock cycle", rounds: 400, operation: "cycle", file: "x.lock"},
	{name: "contended attempt", rounds: 400, operation: "contend", file: "held.lock", prepare: func(t *testing.T, dir string) {
		harness.StartProcess(t).Must("ok", "take", dir+"/held.lock")
	}},
	{name: "create and remove", rounds: 400, operation: "cycle", file: "file"},
	{name: "open, append, close", rounds: 400, operation: "append", file: "append/file0", prepare: filled("append", 1)},
	{name: "stat", rounds: 1000, operation: "stat", file: "stat/file0", prepare: filled("stat", 1)},
	{name: "read 100 bytes", rounds: 400, operation: "read", file: "read/file0", prepare: filled("read", 1)},
	{name: "create and remove 1000 files", rounds: 1, operation: "tree", file: "tree"},
	{name: "list 1000 files with attributes", rounds: 4, operation: "list", file: "list", prepare: filled("list", 1000)},
	{name: "git status of 1000 files", rounds: 1, prepare: func(t *testing.T, dir string) {
		fill(t, dir+"/repo", 1000)
		for _, words := range [][]string{{"init", "-q"}, {"add", "."}} {
			if out, err := exec.Command("git", append([]string{"-C", dir + "/repo"}, words...)...).CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v: %s", words, err, out)
			}
		}
	}, do: func(dir string) error { return exec.Command("git", "-C", dir+"/repo", "status", "--short").Run() }},
	// The two directories do not exist at the same time, because passthrough_ll has a descriptor for each file that
	// the kernel knows.
	{name: "remove 10,000 files", rounds: 1, before: filled("gone", 10_000), do: func(dir string) error {
		return exec.Command("rm", "-rf", dir+"/gone").Run()
	}},
	{name: "list 10,000 files with attributes", rounds: 1, prepare: filled("long", 10_000), do: func(dir string) error {
		return exec.Command("ls", "-l", dir+"/long").Run()
	}},
}

// filled prepares a directory of files.
func filled(name string, files int) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) { fill(t, dir+"/"+name, files) }
}

// benchProgram builds a program of testdata.
func benchProgram(t *testing.T, name string) string {
	t.Helper()
	harness.NeedProgram(t, "gcc")
	program := filepath.Join(t.TempDir(), name)
	if out, err := exec.Command("gcc", "-O2", "-static", "-o", program, "testdata/"+name+".c").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// microseconds runs a program that prints microseconds.
func microseconds(t *testing.T, words ...string) (us []float64) {
	t.Helper()
	out, err := exec.Command(words[0], words[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", words, err, out)
	}
	for _, line := range strings.Fields(string(out)) {
		n, err := strconv.ParseFloat(line, 64)
		if err != nil {
			t.Fatal(err)
		}
		us = append(us, n)
	}
	return us
}

// measure runs a round of a workload and returns the time of each operation, in microseconds.
func (w workload) measure(t *testing.T, client, dir string) (us []float64) {
	t.Helper()
	if w.operation != "" {
		return microseconds(t, client, w.operation, strconv.Itoa(w.rounds), dir+"/"+w.file)
	}
	for range w.rounds {
		start := time.Now()
		if err := w.do(dir); err != nil {
			t.Fatalf("%s, %s: %v", w.name, dir, err)
		}
		us = append(us, float64(time.Since(start).Nanoseconds())/1000)
	}
	return us
}

// measured is the result of a workload with one peer, in microseconds.
type measured struct {
	Workload string  `json:"workload"`
	Peer     string  `json:"peer"`
	Median   float64 `json:"median_us"` // of the medians of the rounds
	P99      float64 `json:"p99_us"`    // of all operations
	Beneath  float64 `json:"times_beneath"`
	Loopback float64 `json:"times_loopback"`
	// Quantiles are the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95 of all operations, in microseconds.
	Quantiles []float64 `json:"quantiles_us"`
}

// benchRounds is the number of turns of each peer with each workload.
const benchRounds = 9

// TestBench measures the peers side by side, in turns, and prints medians and ratios. It writes them as JSON to
// the file BENCH_JSON, and a chart beside that file. Absolute times are those of this machine at this time.
func TestBench(t *testing.T) {
	if os.Getenv("BENCH") == "" {
		t.Skip("make bench does it")
	}
	client, all := benchProgram(t, "client"), peers(t)
	var results []measured
	for _, w := range workloads {
		medians, samples := make([][]float64, len(all)), make([][]float64, len(all))
		for _, p := range all {
			if w.prepare != nil {
				w.prepare(t, p.dir)
			}
		}
		for round := range benchRounds {
			for turn := range all {
				i := (turn + round) % len(all) // no peer is always first
				if w.before != nil {
					w.before(t, all[i].dir)
				}
				took := w.measure(t, client, all[i].dir)
				medians[i] = append(medians[i], quantile(took, 0.5))
				samples[i] = append(samples[i], took...)
			}
		}
		base := quantile(medians[0], 0.5)
		loopback := quantile(medians[slices.IndexFunc(all, func(p peer) bool { return p.name == "loopback" })], 0.5)
		for i, p := range all {
			median := quantile(medians[i], 0.5)
			quantiles := make([]float64, len(chartQuantiles))
			for q := range quantiles {
				quantiles[q] = quantile(samples[i], chartQuantiles[q])
			}
			results = append(results, measured{w.name, p.name, median, quantile(samples[i], 0.99), median / base, median / loopback, quantiles})
		}
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "workload\tpeer\tmedian us\tp99 us\ttimes beneath\ttimes loopback\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%.1f\t%.1f\t%.2f\t%.2f\t\n", r.Workload, r.Peer, r.Median, r.P99, r.Beneath, r.Loopback)
	}
	w.Flush()
	t.Log("\n" + table.String())
	if file := os.Getenv("BENCH_JSON"); file != "" {
		text, err := json.MarshalIndent(results, "", "  ")
		if err == nil {
			err = errors.Join(os.WriteFile(file, append(text, '\n'), 0o644),
				os.WriteFile(strings.TrimSuffix(file, ".json")+".svg", chart(results), 0o644))
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// quantile sorts its argument.
func quantile(of []float64, q float64) float64 {
	slices.Sort(of)
	return of[int(q*float64(len(of)-1))]
}
