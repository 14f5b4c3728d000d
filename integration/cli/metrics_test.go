//go:build linux

package integration

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// metrics are all samples of a text in Prometheus's format, by name and labels; of a histogram its count.
func metrics(t *testing.T, text []byte) map[string]float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	samples := make(map[string]float64)
	for name, family := range families {
		for _, m := range family.Metric {
			key := name
			for _, l := range m.Label {
				key += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			switch family.GetType() {
			case dto.MetricType_COUNTER:
				samples[key] = m.GetCounter().GetValue()
			case dto.MetricType_GAUGE:
				samples[key] = m.GetGauge().GetValue()
			case dto.MetricType_HISTOGRAM:
				samples[key] = float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return samples
}

// metric is a sample of .latchfs/metrics.
func (m *mount) metric(name string) float64 {
	m.t.Helper()
	text, err := os.ReadFile(m.path(".latchfs/metrics"))
	if err != nil {
		m.t.Fatal(err)
	}
	return metrics(m.t, text)[name]
}

// metricsAddress is where a mount with --metrics-listen serves them.
func (m *mount) metricsAddress() string {
	m.t.Helper()
	eventually(m.t, "metrics are served", func() bool { return len(m.logged("serving metrics")) > 0 })
	return fmt.Sprint(m.logged("serving metrics")[0]["address"])
}

// TestMetrics: they agree with what was done, to the count, wherever they are read, and promtool has nothing to say
// against them.
func TestMetrics(t *testing.T) {
	needProgram(t, "promtool")
	m := mountOver(t, t.TempDir(), "--metrics-listen", ":0")
	holder, other := newLocker(t), newLocker(t)
	for _, name := range []string{"a.lock", "b.lock", "c.lock"} {
		holder.must("ok", "take", m.path(name))
	}
	holder.must("ok", "mkdir", m.path("d.lock"))
	holder.must("ok", "take", m.path("yarn.lock"), "# yarn lockfile v1")
	for range 7 {
		other.must("EEXIST", "take", m.path("a.lock"))
	}
	for range 3 {
		other.must("EBUSY", "remove", m.path("a.lock"))
	}
	fmt.Fprintln(other.in, "await", m.wait("b.lock"))
	eventually(t, "the other waits", func() bool { return waitsForAnswer(other.pid()) })
	holder.must("ok", "remove", m.path("b.lock"))
	other.answer()
	other.must("ok", "take", m.path("b.lock"))
	third := newLocker(t)
	third.must("ok", "take", m.path("e.lock"))
	third.kill()
	eventually(t, "the dead one's lock is gone", func() bool { return !exists(m.path("e.lock")) })
	exists(m.path("yarn.lock")) // its payload is read

	text, err := os.ReadFile(m.path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	got := metrics(t, text)
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

	address := m.metricsAddress()
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
	for sample, value := range metrics(t, served) {
		if strings.HasPrefix(sample, "latchfs_lock") && value != got[sample] {
			t.Errorf("%s is %v when it is served, not %v", sample, value, got[sample])
		}
	}
}

// TestMetricsAddress: an address that cannot be had is an error of the mount; a server that takes another's place gets it.
func TestMetricsAddress(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--metrics-listen", "localhost:0")
	address := m.metricsAddress()
	out, err := exec.Command(latchfs, "mount", "--daemon", "--state-dir", t.TempDir(), "--metrics-listen", address, t.TempDir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "address already in use") {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := exec.Command(latchfs, "mount", "--metrics-listen", "nowhere", t.TempDir()).CombinedOutput(); err == nil || !strings.Contains(string(out), "--metrics-listen") {
		t.Errorf("%v: %s", err, out)
	}
	m.unmount()
	again := mountOver(t, t.TempDir(), "--metrics-listen", address)
	again.killServer()
	again.eventuallyServed()
	eventually(t, "the next server answers there", func() bool {
		answer, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// TestExamples: what is shipped for Prometheus and Grafana asks for metrics that there are.
func TestExamples(t *testing.T) {
	needProgram(t, "promtool")
	const examples = "../cmd/latchfs/package/examples/"
	if out, err := exec.Command("promtool", "check", "rules", examples+"alerts.yml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m := mountOver(t, t.TempDir())
	newLocker(t).must("ok", "take", m.path("x.lock"))
	text, err := os.ReadFile(m.path(".latchfs/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	there := metrics(t, text)
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
				t.Errorf("%s asks for %s, which there is not", file, name)
			}
		}
	}
}
