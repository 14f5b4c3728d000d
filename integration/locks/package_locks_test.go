//go:build linux

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// digits finds numbers that may be a pid.
var digits = regexp.MustCompile(`[0-9]{3,}`)

// withAncestors are processes and those that they come from.
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

// writePackageLocks writes n lock files of package managers to dirs, in turn. A small one in which the pid of
// one of family occurs by accident would be a lock, so there is none; the number in its name stands right
// behind a letter, and so is no pid either.
func writePackageLocks(t *testing.T, n int, family []string, dirs ...string) {
	t.Helper()
	g := newPackageLocks(17)
	for i := 0; i < n; {
		file, text := g.next()
		if len(text) <= 4096 && slices.ContainsFunc(digits.FindAllString(text, -1), func(number string) bool { return slices.Contains(family, number) }) {
			continue
		}
		if err := os.WriteFile(fmt.Sprintf("%s/n%d-%s", dirs[i%len(dirs)], i, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		i++
	}
}

// TestPackageLocksAreNobodys: lock files of package managers are data to everybody, whatever writes them and
// whatever becomes of that: every byte stays, nobody is kept from taking one away, and none is removed.
func TestPackageLocksAreNobodys(t *testing.T) {
	t.Parallel()
	const files = 2000
	m := mountOver(t, t.TempDir())
	source := t.TempDir()
	ends := []struct {
		name string
		do   func(p *process)
	}{{"ends", (*process).exit}, {"is-killed", (*process).kill}, {"goes-on", func(*process) {}}}
	type writing struct {
		process  *process
		way, dir string
		end      func(p *process)
	}
	var all []writing
	var pids []int
	var dirs []string
	for _, way := range []string{"overwriting", "excluding", "replacing"} {
		for _, end := range ends {
			w := writing{newLocker(t), way, way + "-" + end.name, end.do}
			all, pids, dirs = append(all, w), append(pids, w.process.pid()), append(dirs, filepath.Join(source, w.dir))
			if err := os.Mkdir(filepath.Join(source, w.dir), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	writePackageLocks(t, files, withAncestors(pids...), dirs...)
	closed := func() {
		t.Helper()
		eventually(t, "nothing is open any more", func() bool { return statusNumber(t, m.path(".latchfs/status"), `  "handles":`) == 0 })
	}
	for _, w := range all {
		if err := os.Mkdir(m.path(w.dir), 0o755); err != nil {
			t.Fatal(err)
		}
		w.process.must("ok", w.way, m.path(w.dir), filepath.Join(source, w.dir))
		closed() // latchfs hears of a close a moment after the writer goes on
		w.end(w.process)
	}
	same := func(t *testing.T) {
		t.Helper()
		if out, err := exec.Command("diff", "-r", source, m.dir).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	for _, restart := range restarts {
		t.Run(restart.name, func(t *testing.T) {
			restart.do(m)
			same(t)
			closed()
			verdicts := m.verdicts()
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
	stranger := newLocker(t)
	for _, w := range all {
		entries, err := os.ReadDir(m.path(w.dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			path := m.path(filepath.Join(w.dir, entry.Name()))
			stranger.must("ok", "rename", path, m.path("away"))
			stranger.must("ok", "rename", m.path("away"), path)
		}
	}
	same(t)
	out, err := exec.Command(latchfs, "reclaimed", "--json", m.dir).Output()
	if said := strings.TrimSpace(string(out)); err != nil || said != "[]" && said != "null" {
		t.Errorf("reclaimed: %v: %s", err, said)
	}
	if kept := reclaimedFiles(t, m); len(kept) > 0 {
		t.Errorf("kept: %q", kept)
	}
}

// TestClosedDataOutlivesItsMaker, which is killed the moment after it closed the file: it had written all of it.
func TestClosedDataOutlivesItsMaker(t *testing.T) {
	t.Parallel()
	const rounds = 100
	m := mountOver(t, t.TempDir())
	gone := 0
	for i := range rounds {
		name := fmt.Sprintf("%d.lock", i)
		maker := exec.Command("bash", "-c", `set -C; echo some data >`+name+`; kill -9 $$`)
		maker.Dir = m.dir
		_ = maker.Run()
		if !exists(m.path(name)) {
			gone++
		}
	}
	if gone > 0 {
		t.Errorf("%d of %d files are gone", gone, rounds)
	}
}
