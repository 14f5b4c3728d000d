//go:build linux

package locks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"latchfs/integration/harness"
)

// withAncestors returns the pids of processes and of their ancestors.
func withAncestors(pids ...int) (family []string) {
	for _, pid := range pids {
		for pid > 0 && !slices.Contains(family, strconv.Itoa(pid)) {
			family = append(family, strconv.Itoa(pid))
			stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			_, rest, _ := strings.Cut(string(stat), ") ")
			pid = 0
			_, _ = fmt.Sscanf(rest, "%c %d", new(rune), &pid)
		}
	}
	return family
}

// TestPackageLocksAreNobodys checks that lock files of package managers are data, whichever process writes them
// and however it ends: every byte stays, every process may remove them, and latchfs removes none.
func TestPackageLocksAreNobodys(t *testing.T) {
	t.Parallel()
	const files = 2000
	m := harness.MountOver(t, t.TempDir())
	source := t.TempDir()
	ends := []struct {
		name string
		do   func(p *harness.Process)
	}{{"ends", (*harness.Process).Exit}, {"is-killed", (*harness.Process).Kill}, {"goes-on", func(*harness.Process) {}}}
	type writing struct {
		process  *harness.Process
		way, dir string
		end      func(p *harness.Process)
	}
	var all []writing
	var pids []int
	var dirs []string
	for _, way := range []string{"overwriting", "excluding", "replacing"} {
		for _, end := range ends {
			w := writing{harness.StartProcess(t), way, way + "-" + end.name, end.do}
			all, pids, dirs = append(all, w), append(pids, w.process.PID()), append(dirs, filepath.Join(source, w.dir))
			if err := os.Mkdir(filepath.Join(source, w.dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	harness.WritePackageLocks(t, files, withAncestors(pids...), dirs...)
	closed := func() {
		t.Helper()
		harness.Eventually(t, "nothing is open any more", func() bool { return harness.StatusNumber(t, m.Path(".latchfs/status"), `  "handles":`) == 0 })
	}
	for _, w := range all {
		if err := os.Mkdir(m.Path(w.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		w.process.Must("ok", w.way, m.Path(w.dir), filepath.Join(source, w.dir))
		closed() // latchfs learns of a close a moment after the writer goes on
		w.end(w.process)
	}
	same := func(t *testing.T) {
		t.Helper()
		if out, err := exec.Command("diff", "-r", source, m.Dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	for _, restart := range harness.Restarts {
		t.Run(restart.Name, func(t *testing.T) {
			restart.Do(m)
			same(t)
			closed()
			verdicts := m.Verdicts()
			for name, l := range verdicts {
				if l.Verdict != "settled" {
					t.Errorf("%s is %s: %s", name, l.Verdict, l.Evidence)
				}
			}
			if len(verdicts) != files {
				t.Errorf("%d files are listed", len(verdicts))
			}
		})
	}
	stranger := harness.StartProcess(t)
	for _, w := range all {
		entries, err := os.ReadDir(m.Path(w.dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			path := m.Path(filepath.Join(w.dir, entry.Name()))
			stranger.Must("ok", "rename", path, m.Path("away"))
			stranger.Must("ok", "rename", m.Path("away"), path)
		}
	}
	same(t)
	out, err := exec.Command(harness.Latchfs, "reclaimed", "--json", m.Dir).Output()
	if said := strings.TrimSpace(string(out)); err != nil || said != "[]" && said != "null" {
		t.Errorf("reclaimed: %v: %s", err, said)
	}
	if kept := harness.ReclaimedFiles(t, m); len(kept) > 0 {
		t.Errorf("kept: %q", kept)
	}
}

// TestClosedDataOutlivesItsMaker kills the writer of data at the moment after it has closed the file. The data is
// complete and stays.
func TestClosedDataOutlivesItsMaker(t *testing.T) {
	t.Parallel()
	const rounds = 100
	m := harness.MountOver(t, t.TempDir())
	gone := 0
	for i := range rounds {
		name := fmt.Sprintf("%d.lock", i)
		maker := exec.Command("bash", "-c", `set -C; echo some data >`+name+`; kill -9 $$`)
		maker.Dir = m.Dir
		_ = maker.Run()
		if !harness.Exists(m.Path(name)) {
			gone++
		}
	}
	if gone > 0 {
		t.Errorf("%d of %d files are gone", gone, rounds)
	}
}
