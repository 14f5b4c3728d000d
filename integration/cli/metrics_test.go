//go:build linux

package cli

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"latchfs/integration/harness"
)

// TestMetrics checks that metrics agree with the calls that were made, in the control file and over HTTP, and that
// promtool finds no fault with them.
func TestMetrics(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "promtool")
	m := harness.MountOver(t, t.TempDir(), "--metrics-listen", ":0")
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	for _, name := range []string{"a.lock", "b.lock", "c.lock"} {
		holder.Must("ok", "take", m.Path(name))
	}
	holder.Must("ok", "mkdir", m.Path("d.lock"))
	holder.Must("ok", "take", m.Path("yarn.lock"), "# yarn lockfile v1")
	for range 7 {
		other.Must("EEXIST", "take", m.Path("a.lock"))
	}
	for range 3 {
		other.Must("EBUSY", "remove", m.Path("a.lock"))
	}
	other.Send("await", m.WaitFile("b.lock"))
	harness.Eventually(t, "the other waits", func() bool { return harness.IsWaiting(other.PID()) })
	holder.Must("ok", "remove", m.Path("b.lock"))
	other.Answer()
	other.Must("ok", "take", m.Path("b.lock"))
	third := harness.StartProcess(t)
	third.Must("ok", "take", m.Path("e.lock"))
	third.Kill()
	harness.Eventually(t, "the dead one's lock is gone", func() bool { return !harness.Exists(m.Path("e.lock")) })
	harness.Exists(m.Path("yarn.lock")) // latchfs reads its payload

	text, err := os.ReadFile(m.Path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	got := harness.ParseMetrics(t, text)
	for sample, want := range map[string]float64{
		"latchfs_lock_acquisitions_total kind=create": 6, "latchfs_lock_acquisitions_total kind=mkdir": 1,
		"latchfs_lock_contentions_total": 7, "latchfs_lock_refusals_total": 3, "latchfs_lock_releases_total": 1, "latchfs_lock_settled_total": 1,
		"latchfs_lock_reaps_total reason=dead-pid": 1, "latchfs_lock_reaps_total reason=too-old": 0,
		"latchfs_lock_hold_seconds": 2, "latchfs_lock_wait_seconds": 1, "latchfs_waiters": 0,
		"latchfs_locks verdict=live": 4, "latchfs_locks verdict=unknown": 0, "latchfs_locks verdict=stale": 0,
		"latchfs_requests_total kind=create": 6, "latchfs_requests_total kind=unlink": 4, "latchfs_requests_total kind=mkdir": 1,
	} {
		if value, there := got[sample]; !there || value != want {
			t.Errorf("%s is %v (%v), not %v", sample, value, there, want)
		}
	}
	for _, sample := range []string{"latchfs_recovery_seconds", "latchfs_journal_size_bytes", "latchfs_inodes"} {
		if got[sample] <= 0 {
			t.Errorf("%s is %v", sample, got[sample])
		}
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = bytes.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool: %v: %s", err, out)
	}

	address := m.MetricsAddress()
	if !strings.HasPrefix(address, "127.0.0.1:") {
		t.Errorf("served at %s", address)
	}
	answer, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	served, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	for sample, value := range harness.ParseMetrics(t, served) {
		if strings.HasPrefix(sample, "latchfs_lock") && value != got[sample] {
			t.Errorf("%s is %v when it is served, not %v", sample, value, got[sample])
		}
	}
}

// TestMetricsAddress checks that mounting fails if the address cannot be used, and that a server that replaces
// another one takes over its address.
func TestMetricsAddress(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--metrics-listen", "localhost:0")
	address := m.MetricsAddress()
	out, err := exec.Command(harness.Latchfs, "mount", "--daemon", "--state-dir", t.TempDir(), "--metrics-listen", address, t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := exec.Command(harness.Latchfs, "mount", "--metrics-listen", "nowhere", t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(out), "--metrics-listen") {
		t.Errorf("%v: %s", err, out)
	}
	m.Unmount()
	again := harness.MountOver(t, t.TempDir(), "--metrics-listen", address)
	again.KillServer()
	again.WaitUntilServed()
	harness.Eventually(t, "the next server answers there", func() bool {
		answer, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// TestExamples checks that the examples for Prometheus and Grafana use metrics that exist.
func TestExamples(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "promtool")
	const examples = "../../cmd/latchfs/package/examples/"
	if out, err := exec.Command("promtool", "check", "rules", examples+"alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m := harness.MountOver(t, t.TempDir())
	harness.StartProcess(t).Must("ok", "take", m.Path("x.lock"))
	text, err := os.ReadFile(m.Path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	there := harness.ParseMetrics(t, text)
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		text, err := os.ReadFile(examples + file)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range strings.FieldsFunc(string(text), func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
			if !strings.HasPrefix(name, "latchfs_") && !strings.HasPrefix(name, "process_") {
				continue
			}
			found := false
			for sample := range there {
				found = found || strings.Fields(sample)[0] == strings.TrimSuffix(name, "_bucket")
			}
			if !found {
				t.Errorf("%s uses %s, which does not exist", file, name)
			}
		}
	}
}
