//go:build linux

package vm

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"latchfs/integration/harness"
)

// In these tests a virtual machine with a disk is reset, or cut from its power, while locks are held. It runs
// integration/vm/reboot.

func needReboot(t *testing.T) {
	t.Helper()
	if os.Getenv("REBOOT") == "" {
		t.Skip("only make test-reboot runs this test")
	}
}

// said returns the rest of the lines of a console that begin with a word.
func said(lines []string, word string) (found []string) {
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, word+" "); ok {
			found = append(found, rest)
		}
	}
	return found
}

// TestReset checks that after a reset every lock of the boot before is free, even if another process has the
// holder's pid, and that data is unchanged. Without a readable boot id only the locks that name their
// holder are free. The others stay, because nothing is proven about them.
func TestReset(t *testing.T) {
	needReboot(t)
	t.Parallel()
	program := harness.BuildStatic(t)
	for _, scenario := range []string{"reset", "noid"} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel()
			programs := map[string]string{"latchfs": program}
			if scenario == "reset" {
				programs["lockfiles.tar"] = packageLocksInVM(t)
			}
			m := harness.NewVM(t, "reboot", "64M", programs)
			m.Boot("scenario=" + scenario)
			before := m.ReadUntil("HOLDING")
			m.CheckResults(before, 1)
			m.Reset()
			after := m.ReadUntil("RESULT done")
			m.CheckResults(after, 40)
			report(t, scenario, before, after)
		})
	}
}

// packageLocksInVM returns an archive of lock files of package managers for integration/vm/reboot.
func packageLocksInVM(t *testing.T) (archive string) {
	t.Helper()
	dir := t.TempDir()
	var dirs, pids []string
	for i := range 9 {
		dirs = append(dirs, filepath.Join(dir, "files", strconv.Itoa(i)))
		if err := os.MkdirAll(dirs[i], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for pid := range 2000 {
		pids = append(pids, strconv.Itoa(25000+pid)) // pids of the processes that write the files there
	}
	harness.WritePackageLocks(t, 200, pids, dirs...)
	archive = filepath.Join(dir, "lockfiles.tar")
	if out, err := exec.Command("tar", "-C", filepath.Join(dir, "files"), "-cf", archive, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return archive
}

// report logs what became of each lock, and checks it.
func report(t *testing.T, scenario string, before, after []string) {
	t.Helper()
	held, found := listedLocks(t, said(before, "HELD")), listedLocks(t, said(after, "FOUND"))
	now := make(map[string]string)
	for _, line := range said(after, "NOW") {
		kind, process, _ := strings.Cut(line, " ")
		now[kind] = process
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "lock\tkind\tbefore the reset\tthat pid now\tverdict\treason\tevidence")
	locks := 0
	for name, l := range held {
		f := found[name]
		if l.Verdict == "settled" {
			if f.Verdict != "settled" {
				t.Errorf("%s, which is data: %s", name, f.Verdict)
			}
			continue
		}
		locks++
		kind := strings.TrimSuffix(name, ".lock")
		fmt.Fprintf(w, "%s\t%s\t%s by %d\t%s\t%s\t%s\t%s\n", name, l.Kind, l.Verdict, l.Holder.PID, now[kind], f.Verdict, f.Reason, f.Evidence)
		verdict, reason := "stale", "boot-id-mismatch"
		if scenario == "noid" {
			reason = "recycled-pid"
			if kind == "empty" || kind == "mkdir" {
				verdict, reason = "unknown", ""
			}
		}
		if l.Verdict != "live" || f.Verdict != verdict || f.Reason != reason || (verdict == "stale") != (f.ReclaimedAt != nil) {
			t.Errorf("%s was %s and is %s, %s", name, l.Verdict, f.Verdict, f.Reason)
		}
	}
	if locks != 9 {
		t.Errorf("%d locks were held", locks)
	}
	w.Flush()
	t.Logf("%s:\n%scontrol, without latchfs: the lock of pid %s is taken for held", scenario, table.String(), now["plain"])
}

// listedLocks returns the output of latchfs ls --json on a console, by name.
func listedLocks(t *testing.T, lines []string) map[string]harness.Lock {
	t.Helper()
	var list []harness.Lock
	if len(lines) != 1 || json.Unmarshal([]byte(lines[0]), &list) != nil {
		t.Fatalf("not one list: %q", lines)
	}
	byName := make(map[string]harness.Lock)
	for _, l := range list {
		byName[l.Name] = l
	}
	return byName
}

// TestPowerCut cuts the power while locks are taken and released and a session is written.
func TestPowerCut(t *testing.T) {
	needReboot(t)
	t.Parallel()
	program := harness.BuildStatic(t)
	for i := range 2 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			m := harness.NewVM(t, "reboot", "64M", map[string]string{"latchfs": program})
			m.Boot("scenario=cut")
			m.ReadUntil("HAMMERING")
			time.Sleep(time.Second + rand.N(3*time.Second))
			written := said(m.CutPower(), "WRITTEN")
			afterCut(m, "cut", written)
		})
	}
}

// TestPowerCutInCompaction cuts the power at each point of a compaction of the journal.
func TestPowerCutInCompaction(t *testing.T) {
	needReboot(t)
	t.Parallel()
	programs := map[string]string{"latchfs": harness.BuildStatic(t), "latchfs-crash": harness.BuildStatic(t, "-tags", "crashtest")}
	for _, point := range []string{"begun", "written", "renamed"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			m := harness.NewVM(t, "reboot", "64M", programs)
			m.Boot("scenario=compaction point=" + point)
			m.ReadUntil("PAUSED compaction " + point)
			time.Sleep(time.Second)
			m.CutPower()
			afterCut(m, "compaction", nil)
		})
	}
}

// afterCut boots again and checks the results. written holds the numbers of the lines that had been synced.
func afterCut(m *harness.VM, scenario string, written []string) {
	m.T.Helper()
	m.Boot("scenario=" + scenario)
	after := m.ReadUntil("RESULT done")
	m.CheckResults(after, 25)
	least := 0
	if len(written) > 0 {
		least, _ = strconv.Atoi(written[len(written)-1])
	}
	lines := said(after, "LINES")
	if len(lines) != 1 {
		m.T.Fatalf("%q", lines)
	}
	if n, err := strconv.Atoi(lines[0]); err != nil || n < least {
		m.T.Errorf("%d lines had been written and synced, %d are there", least, n)
	}
	reclaimed := 0
	for _, l := range listedLocks(m.T, said(after, "FOUND")) {
		if l.ReclaimedAt != nil {
			reclaimed++
		}
	}
	m.T.Logf("%d lines of a session written and synced, %s there after the cut; locks reclaimed: %d; left empty, without a record: %q", least, lines[0], reclaimed, said(after, "LEFT"))
}
