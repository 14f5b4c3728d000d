//go:build linux

package locks

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/integration/harness"
)

// TestManyLeftBehind mounts over 10,000 lock files, half of them stale, among 10,000 files of data. The first
// listing already judges all of them rightly.
func TestManyLeftBehind(t *testing.T) {
	files := 10_000
	if testing.Short() || harness.RaceEnabled {
		files = 1000
	}
	dir := t.TempDir()
	dead := harness.DeadPID(t)
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
	beneath := listings(t, dir, 2*files)
	m := harness.MountOver(t, dir)
	first := listings(t, m.Dir, 2*files-files/2, 1)
	harness.Eventually(t, "all are judged", func() bool { return strings.Contains(m.Log(), "judged the lock files from before the mount") })
	later := listings(t, m.Dir, 2*files-files/2)
	t.Logf("ls -l of %d lock files: beneath %v; in the mount at first %v (%.1f times), then %v (%.1f times)", 2*files,
		beneath, first, ratio(first, beneath), later, ratio(later, beneath))
	for i := range 2 * files {
		text, err := os.ReadFile(m.Path(name(i)))
		if i < files/2 {
			if !os.IsNotExist(err) {
				t.Fatalf("%s: stale and there: %v", name(i), err)
			}
		} else if err != nil || string(text) != payload(i) {
			t.Fatalf("%s: %q %v", name(i), text, err)
		}
	}
	if locks := m.Locks(); len(locks) != files/2 {
		t.Errorf("%d are held", len(locks))
	}
	if kept := harness.ReclaimedFiles(t, m); len(kept) != min(files/2, 1000) {
		t.Errorf("%d are kept", len(kept))
	}
}

// TestLeftBehindIsJudgedUnasked checks that lock files from before the mount are judged even if no process looks
// at them.
func TestLeftBehindIsJudgedUnasked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x.lock", "a/b/y.lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), fmt.Append(nil, harness.DeadPID(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := harness.MountOver(t, dir)
	harness.Eventually(t, "both are reclaimed", func() bool { return len(harness.ReclaimedFiles(t, m)) == 2 })
}

// TestListedIsJudged checks that a listing judges all entries, although the kernel asks only for the attributes of
// the first ones.
func TestListedIsJudged(t *testing.T) {
	t.Parallel()
	const files = 1000
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	beneath, err := os.OpenRoot(filepath.Join(dir, "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer beneath.Close()
	m := harness.MountOver(t, dir)
	dead := fmt.Append(nil, harness.DeadPID(t))
	for i := range files {
		if err := beneath.WriteFile(fmt.Sprintf("%05d.lock", i), dead, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(m.Path("d"))
	if err != nil || len(entries) > 0 {
		t.Errorf("%d are listed: %v", len(entries), err)
	}
	if kept := harness.ReclaimedFiles(t, m); len(kept) != files {
		t.Errorf("%d are kept", len(kept))
	}
}

// TestACLIsSeen checks that an ACL that is set in the mount or in the backing directory is seen, although ls has
// asked for it before.
func TestACLIsSeen(t *testing.T) {
	t.Parallel()
	const acl = "system.posix_acl_access"
	dir, outside := t.TempDir(), t.TempDir()
	path, beneath := filepath.Join(dir, "file"), filepath.Join(outside, "file")
	if err := os.WriteFile(beneath, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(beneath, path); err != nil {
		t.Fatal(err)
	}
	time.Sleep(backing.DistinctAfter * 11 / 10) // latchfs remembers that there is no ACL once the last change is this old
	m := harness.MountOver(t, dir)
	// The ACL is user::rw- group::r-- other::r-- user:1:r-- mask::r--.
	withUser := harness.EncodeACL([][3]uint32{{1, 6, ^uint32(0)}, {2, 4, 1}, {4, 4, ^uint32(0)}, {16, 4, ^uint32(0)}, {32, 4, ^uint32(0)}})
	has := func() bool {
		m.MustRun("ls -l")
		_, err := unix.Getxattr(path, acl, nil)
		if err != nil && err != unix.ENODATA {
			t.Fatal(err)
		}
		return err == nil
	}
	for _, set := range []string{path, beneath} {
		for range 2 { // latchfs answers from memory the second time
			if has() {
				t.Error("an ACL is seen that is not set")
			}
		}
		if err := unix.Setxattr(set, acl, withUser, 0); err != nil {
			t.Fatal(err)
		}
		if set == path && !has() {
			t.Error("the ACL is not seen")
		}
		harness.Eventually(t, "it is seen", has)
		if err := unix.Removexattr(path, acl); err != nil {
			t.Fatal(err)
		}
		time.Sleep(backing.DistinctAfter * 11 / 10)
	}
}

// listings returns the median time of some runs of ls -l of a directory, by default 5, and checks the number of
// files listed.
func listings(t *testing.T, dir string, files int, runs ...int) time.Duration {
	t.Helper()
	n := 5
	if len(runs) > 0 {
		n = runs[0]
	}
	var times []time.Duration
	for range n {
		start := time.Now()
		out, err := exec.Command("ls", "-l", dir).Output()
		if listed := strings.Count(string(out), "\n") - 1; err != nil || listed != files { // without the line "total"
			t.Fatalf("ls: %v, %d files of %d", err, listed, files)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2].Round(time.Millisecond)
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }
