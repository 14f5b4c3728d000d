//go:build linux

package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// A peer is a directory that is served in one way or another.
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
	var out logBuffer
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
	eventually(t, name+" is mounted", func() bool {
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

// peers are the directory beneath, latchfs, and other filesystems over one.
func peers(t *testing.T) []peer {
	t.Helper()
	all := []peer{{"beneath", t.TempDir()}, {"latchfs", mountOver(t, t.TempDir(), "--log-level", "warning").dir}}
	bin := t.TempDir()
	loopback := filepath.Join(bin, "loopback")
	if out, err := exec.Command("go", "build", "-o", loopback, "github.com/hanwen/go-fuse/v2/example/loopback").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	all = append(all, startPeer(t, "loopback", func(from, to string) []string { return []string{loopback, "-q", "-directmount", to, from} }),
		// With the kernel's check of permissions, as in latchfs: it asks for a directory's attributes after each change of it.
		startPeer(t, "loopback, checked", func(from, to string) []string {
			return []string{loopback, "-q", "-allow-other", "-directmount", to, from}
		}))
	source := "/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c"
	passthrough := filepath.Join(bin, "passthrough_ll")
	if out, err := exec.Command("sh", "-c", `gcc -O2 "$0" $(pkg-config fuse3 --cflags --libs) -o "$1"`, source, passthrough).CombinedOutput(); err != nil {
		lacking(t, fmt.Sprintf("passthrough_ll: %v: %s; run make bench", err, out))
	}
	all = append(all, startPeer(t, "passthrough_ll", func(from, to string) []string { return []string{passthrough, "-f", "-o", "source=" + from, to} }))
	all = append(all, startPeer(t, "passthrough_ll, checked", func(from, to string) []string {
		return []string{passthrough, "-f", "-o", "default_permissions,source=" + from, to}
	}))
	needProgram(t, "bindfs")
	return append(all, startPeer(t, "bindfs", func(from, to string) []string { return []string{"bindfs", "-f", from, to} }))
}

// A workload is an operation that is measured. Prepare makes what it needs in a directory.
type workload struct {
	name    string
	rounds  int // operations a round
	prepare func(t *testing.T, dir string)
	do      func(dir string) error
}

var payload100 = []byte(strings.Repeat("p", 99) + "\n")

// lockPayload is a customary one of 100 bytes.
var lockPayload = fmt.Appendf(nil, "%-99s\n", fmt.Sprintf(`{"pid":%d,"createdAt":"2026-01-01T00:00:00.000Z"}`, os.Getpid()))

func create(path string, flags int, text []byte) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_WRONLY|flags, 0o644)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, text)
	return errors.Join(err, unix.Close(fd))
}

func fill(t *testing.T, dir string, files int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range files {
		if err := create(fmt.Sprintf("%s/file%d", dir, i), 0, payload100); err != nil {
			t.Fatal(err)
		}
	}
}

var workloads = []workload{
	{"lock cycle", 400, nil, func(dir string) error {
		return errors.Join(create(dir+"/x.lock", unix.O_EXCL, lockPayload), unix.Unlink(dir+"/x.lock"))
	}},
	{"contended attempt", 400, func(t *testing.T, dir string) { newLocker(t).must("ok", "take", dir+"/held.lock") }, func(dir string) error {
		if err := create(dir+"/held.lock", unix.O_EXCL, payload100); err != unix.EEXIST {
			return fmt.Errorf("%v, not EEXIST", err)
		}
		return nil
	}},
	{"create and remove", 400, nil, func(dir string) error {
		return errors.Join(create(dir+"/file", unix.O_EXCL, payload100), unix.Unlink(dir+"/file"))
	}},
	{"open, append, close", 400, func(t *testing.T, dir string) { fill(t, dir+"/append", 1) }, func(dir string) error {
		return create(dir+"/append/file0", unix.O_APPEND, payload100)
	}},
	{"stat", 1000, func(t *testing.T, dir string) { fill(t, dir+"/stat", 1) }, func(dir string) error {
		return unix.Lstat(dir+"/stat/file0", &unix.Stat_t{})
	}},
	{"read 100 bytes", 400, func(t *testing.T, dir string) { fill(t, dir+"/read", 1) }, func(dir string) error {
		_, err := os.ReadFile(dir + "/read/file0")
		return err
	}},
	{"create and remove 1000 files", 1, nil, func(dir string) error {
		if err := os.Mkdir(dir+"/tree", 0o755); err != nil {
			return err
		}
		for i := range 1000 {
			if err := create(fmt.Sprintf("%s/tree/file%d", dir, i), 0, payload100); err != nil {
				return err
			}
		}
		return os.RemoveAll(dir + "/tree")
	}},
	{"git status of 1000 files", 1, func(t *testing.T, dir string) {
		fill(t, dir+"/repo", 1000)
		for _, words := range [][]string{{"init", "-q"}, {"add", "."}} {
			if out, err := exec.Command("git", append([]string{"-C", dir + "/repo"}, words...)...).CombinedOutput(); err != nil {
				t.Fatalf("git %v: %v: %s", words, err, out)
			}
		}
	}, func(dir string) error { return exec.Command("git", "-C", dir+"/repo", "status", "--short").Run() }},
	{"list 10,000 files with attributes", 1, func(t *testing.T, dir string) { fill(t, dir+"/long", 10_000) }, func(dir string) error {
		return exec.Command("ls", "-l", dir+"/long").Run()
	}},
	{"list 1000 files with attributes", 4, func(t *testing.T, dir string) { fill(t, dir+"/list", 1000) }, func(dir string) error {
		entries, err := os.ReadDir(dir + "/list")
		for _, entry := range entries {
			if _, infoErr := entry.Info(); infoErr != nil {
				err = infoErr
			}
		}
		return err
	}},
}

// measured is what a workload took with one peer, in microseconds.
type measured struct {
	Workload string  `json:"workload"`
	Peer     string  `json:"peer"`
	Median   float64 `json:"median_us"` // of the medians of the rounds
	P99      float64 `json:"p99_us"`    // of all operations
	Beneath  float64 `json:"times_beneath"`
	Loopback float64 `json:"times_loopback"`
	// Quantiles are those of all operations at 0.05, 0.25, 0.5, 0.75 and 0.95, in microseconds.
	Quantiles []float64 `json:"quantiles_us"`
}

// benchRounds is how often each peer has its turn with each workload.
const benchRounds = 9

// TestBench measures the peers side by side, in turns, and prints medians and ratios; as JSON too, to the
// file BENCH_JSON, and as a chart beside it. Absolute times are this machine's at that moment.
func TestBench(t *testing.T) {
	if os.Getenv("BENCH") == "" {
		t.Skip("make bench does it")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := peers(t)
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
				i := (turn + round) % len(all) // nobody is always first
				var took []float64
				for range w.rounds {
					start := time.Now()
					if err := w.do(all[i].dir); err != nil {
						t.Fatalf("%s, %s: %v", w.name, all[i].name, err)
					}
					took = append(took, float64(time.Since(start).Nanoseconds())/1000)
				}
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

// quantile sorts what it is given.
func quantile(of []float64, q float64) float64 {
	slices.Sort(of)
	return of[int(q*float64(len(of)-1))]
}
