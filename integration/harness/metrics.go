//go:build linux

package harness

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ParseMetrics returns all samples of a text in Prometheus's format, by "NAME LABEL=VALUE ...". The sample of a
// histogram is its count.
func ParseMetrics(t *testing.T, text []byte) map[string]float64 {
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

// Metric returns a sample of .latchfs/metrics, 0 if there is no such sample.
func (m *Mount) Metric(name string) float64 {
	m.T.Helper()
	text, err := os.ReadFile(m.Path(".latchfs/metrics"))
	if err != nil {
		m.T.Fatal(err)
	}
	return ParseMetrics(m.T, text)[name]
}

// MetricsAddress returns the address at which a mount with --metrics-listen serves metrics.
func (m *Mount) MetricsAddress() string {
	m.T.Helper()
	Eventually(m.T, "metrics are served", func() bool { return len(m.Logged("serving metrics")) > 0 })
	return fmt.Sprint(m.Logged("serving metrics")[0]["address"])
}

// StatusNumber returns the number after field, which begins a line of a file such as /proc/PID/status.
func StatusNumber(t *testing.T, path, field string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "\n"+field)
	n := 0
	if _, err := fmt.Sscan(rest, &n); !ok || err != nil {
		t.Fatalf("%s: no %s", path, field)
	}
	return n
}
