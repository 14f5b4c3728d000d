package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"github.com/sirupsen/logrus"

	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// metrics count what happens to locks. They begin anew with each server.
type metrics struct {
	registry *prometheus.Registry

	acquisitions *prometheus.CounterVec // by kind
	contentions  prometheus.Counter
	refusals     prometheus.Counter
	releases     prometheus.Counter
	settled      prometheus.Counter
	reaps        *prometheus.CounterVec // by reason
	holds, waits prometheus.Histogram   // seconds
}

// durationBuckets reach from a lock cycle to a day.
var durationBuckets = []float64{0.0001, 0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, 86400}

func newMetrics(version string) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: durationBuckets})
	}
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		acquisitions: vector("latchfs_lock_acquisitions_total", "Locks taken, by how: create, mkdir, symlink, link, rename, found or pid-file.", "kind"),
		contentions:  counter("latchfs_lock_contentions_total", "Times another family than the holder's looked a live lock up, as who tries to take it does."),
		refusals:     counter("latchfs_lock_refusals_total", "Times somebody tried to remove, replace or change another's live lock (EBUSY)."),
		releases:     counter("latchfs_lock_releases_total", "Locks released by their family, an operator, or by anybody while unknown."),
		settled:      counter("latchfs_lock_settled_total", "Files that turned out to be no locks and stay as they are."),
		reaps:        vector("latchfs_lock_reaps_total", "Stale locks removed, by reason.", "reason"),
		holds:        histogram("latchfs_lock_hold_seconds", "How long locks were held that were released or reaped."),
		waits:        histogram("latchfs_lock_wait_seconds", "How long readers of .latchfs/wait waited for their turn."),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "latchfs_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	for _, reason := range verdict.Reasons(verdict.Stale) {
		m.reaps.WithLabelValues(string(reason))
	}
	m.registry.MustRegister(m.acquisitions, m.contentions, m.refusals, m.releases, m.settled, m.reaps, m.holds, m.waits, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// happened counts an event. It is called while it happens.
func (m *metrics) happened(e lockstore.Event) {
	switch e.Transition {
	case lockstore.Acquired:
		m.acquisitions.WithLabelValues(string(e.Lock.Kind)).Inc()
	case lockstore.Released:
		m.releases.Inc()
		m.holds.Observe(e.Time.Sub(e.Lock.Made).Seconds())
	case lockstore.Reaped:
		m.reaps.WithLabelValues(string(e.Reason)).Inc()
		m.holds.Observe(e.Time.Sub(e.Lock.Made).Seconds())
	case lockstore.Settled:
		m.settled.Inc()
	case lockstore.Contended:
		m.contentions.Inc()
	case lockstore.Refused:
		m.refusals.Inc()
	case lockstore.Turn:
		m.waits.Observe(e.Waited.Seconds())
	}
}

// follow adds what is so at the moment in which it is asked for.
func (m *metrics) follow(of *mounted, recovery time.Duration) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("latchfs_waiters", "Readers of .latchfs/wait whose turn it is not yet.", func() float64 { return float64(of.store.Waiting()) })
	gauge("latchfs_event_readers", "Open files of .latchfs/events.", func() float64 { return float64(of.fs.EventReaders()) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "latchfs_waiting_refusals_total", Help: "Readers of .latchfs/wait and .latchfs/events beyond a user's limit.",
	}, func() float64 { return float64(of.fs.LimitRefusals()) }))
	gauge("latchfs_open_files", "Files and directories that are open in the mount.", func() float64 { return float64(of.fs.OpenFiles()) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "latchfs_open_refusals_total", Help: "Files that were not opened for want of descriptors, or beyond a user's share (ENFILE).",
	}, func() float64 { return float64(of.fs.OpenRefusals()) }))
	gauge("latchfs_journal_size_bytes", "Size of the journal.", func() float64 { return float64(of.store.JournalSize()) })
	gauge("latchfs_inodes", "Files and directories the kernel knows.", func() float64 { return float64(of.fs.Inodes.Size()) })
	gauge("latchfs_recovery_seconds", "What it took this server to recover the locks of the journal.", recovery.Seconds)
	m.registry.MustRegister(current{of,
		prometheus.NewDesc("latchfs_locks", "Locks there are, by verdict.", []string{"verdict"}, nil),
		prometheus.NewDesc("latchfs_requests_total", "Requests of the kernel, by kind.", []string{"kind"}, nil),
	})
}

// current collects what has labels.
type current struct {
	of              *mounted
	locks, requests *prometheus.Desc
}

func (c current) Describe(to chan<- *prometheus.Desc) {
	to <- c.locks
	to <- c.requests
}

func (c current) Collect(to chan<- prometheus.Metric) {
	verdicts := c.of.store.Verdicts()
	for _, v := range []verdict.Verdict{verdict.Live, verdict.Unknown, verdict.Stale} {
		to <- prometheus.MustNewConstMetric(c.locks, prometheus.GaugeValue, float64(verdicts[v]), v.String())
	}
	for kind, n := range c.of.fs.Requests() {
		to <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(n), kind)
	}
}

// text is all of them in Prometheus's text format.
func (m *metrics) text() ([]byte, error) {
	families, err := m.registry.Gather()
	var text bytes.Buffer
	for _, family := range families {
		if _, writeErr := expfmt.MetricFamilyToText(&text, family); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
	}
	return text.Bytes(), err
}

// listenRetry is how long a server that takes another's place waits for that to give the address up.
const listenRetry = time.Second

// listenFor opens the address of --metrics-listen, on this machine alone unless it names a host; nil if it is empty.
func listenFor(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, usageError{fmt.Errorf("--metrics-listen: %w", err)}
	}
	if host == "" {
		host = "localhost"
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	return listener, nil
}

// serve answers at an address, as long as the process is there. With again it tries for the address until it has it.
func (m *metrics) serve(listener net.Listener, address string, again bool, log logrus.FieldLogger) {
	for listener == nil && again {
		time.Sleep(listenRetry)
		listener, _ = listenFor(address)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{}))
	server := http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	log.WithField("address", listener.Addr().String()).Info("serving metrics")
	if err := server.Serve(listener); err != nil {
		log.WithError(err).Error("metrics are not served any more")
	}
}
