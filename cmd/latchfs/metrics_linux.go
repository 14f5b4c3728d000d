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

// metrics counts the events of locks. A new server starts at zero.
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

// durationBuckets range from the duration of taking and releasing a lock to a day, in seconds.
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
		acquisitions: vector("latchfs_lock_acquisitions_total", "Locks taken, by kind: create, mkdir, symlink, link, rename, found or pid-file.", "kind"),
		contentions:  counter("latchfs_lock_contentions_total", "Lookups of a live lock by a process outside the family of its holder, as when it tries to take the lock."),
		refusals:     counter("latchfs_lock_refusals_total", "Attempts to remove, replace or change the live lock of another process (EBUSY)."),
		releases:     counter("latchfs_lock_releases_total", "Locks released by the family of their holder, by an operator, or by any process while unknown."),
		settled:      counter("latchfs_lock_settled_total", "Files with lock names that turned out to be ordinary files."),
		reaps:        vector("latchfs_lock_reaps_total", "Stale locks removed, by reason.", "reason"),
		holds:        histogram("latchfs_lock_hold_seconds", "How long released and reaped locks were held."),
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

// happened counts an event. The store calls it synchronously.
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

// follow adds the metrics whose values are read from the mount at each scrape.
func (m *metrics) follow(of *mounted, recovery time.Duration) {
	gauge := func(name, help string, value func() float64) {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value))
	}
	gauge("latchfs_waiters", "Readers of .latchfs/wait that wait for their turn.", func() float64 { return float64(of.store.Waiting()) })
	gauge("latchfs_event_readers", "Open files of .latchfs/events.", func() float64 { return float64(of.fs.EventReaders()) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "latchfs_waiting_refusals_total", Help: "Readers of .latchfs/wait and .latchfs/events that were refused because of the limit per user (EDQUOT).",
	}, func() float64 { return float64(of.fs.LimitRefusals()) }))
	gauge("latchfs_open_files", "Open files and directories in the mount.", func() float64 { return float64(of.fs.OpenFiles()) })
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "latchfs_open_refusals_total", Help: "Files that could not be opened for lack of descriptors, or because of the share per user (ENFILE).",
	}, func() float64 { return float64(of.fs.OpenRefusals()) }))
	gauge("latchfs_journal_size_bytes", "Size of the journal.", func() float64 { return float64(of.store.JournalSize()) })
	gauge("latchfs_inodes", "Files and directories that the kernel knows.", func() float64 { return float64(of.fs.Inodes.Size()) })
	gauge("latchfs_recovery_seconds", "How long this server took to recover the locks from the journal.", recovery.Seconds)
	m.registry.MustRegister(current{of,
		prometheus.NewDesc("latchfs_locks", "Present locks, by verdict.", []string{"verdict"}, nil),
		prometheus.NewDesc("latchfs_requests_total", "Requests from the kernel, by kind.", []string{"kind"}, nil),
	})
}

// current collects the metrics that have labels and are read at each scrape.
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

// text returns all metrics in the text format of Prometheus.
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

// listenRetry is the interval at which a server tries to listen while its predecessor still has the address.
const listenRetry = time.Second

// listenFor listens at the address of --metrics-listen, on localhost unless the address names a host. It returns nil
// for an empty address.
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

// serve serves the metrics until the process ends. Without a listener, and with again, it first tries to listen until
// it succeeds.
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
		log.WithError(err).Error("metrics are no longer served")
	}
}
