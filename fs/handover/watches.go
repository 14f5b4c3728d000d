//go:build linux

package handover

import (
	"sync"

	"golang.org/x/sys/unix"

	"latchfs/bootid"
)

// Watches are the pidfds of watched processes. A later server takes them over, so that it learns how a process ended
// that ended between the two servers.
type Watches struct {
	tables *Tables
	rows   Rows[watchRow]

	mu        sync.Mutex
	inherited map[watchKey]*inheritedWatch
}

var _ bootid.Pidfds = (*Watches)(nil)

// watchKey identifies a process of one boot.
type watchKey struct {
	pid     int
	started uint64
}

// inheritedWatch is a pidfd of a dead server.
type inheritedWatch struct {
	row   *watchRow
	pidfd int // -1 once it was taken
}

// inherit collects the pidfds that were taken over.
func (w *Watches) inherit() {
	w.inherited = make(map[watchKey]*inheritedWatch)
	w.rows.Each(func(row *watchRow) {
		if pid := row.pid.Load(); pid != 0 {
			w.inherited[watchKey{int(pid), row.started}] = &inheritedWatch{row, w.tables.Descriptor(&row.fd)}
		}
	})
}

// Take implements bootid.Pidfds.
func (w *Watches) Take(p bootid.Process) (pidfd int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := w.inherited[watchKey{p.PID, p.StartTime}]
	if i == nil || i.pidfd < 0 {
		return -1, false
	}
	pidfd, i.pidfd = i.pidfd, -1
	return pidfd, true
}

// Kept implements bootid.Pidfds.
func (w *Watches) Kept(p bootid.Process, pidfd int) (closing func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := watchKey{p.PID, p.StartTime}
	var row *watchRow
	if i := w.inherited[key]; i != nil && i.pidfd < 0 {
		row = i.row
		w.tables.Set(&row.fd, pidfd)
		delete(w.inherited, key)
	} else {
		row = w.rows.Take()
		row.started = p.StartTime
		w.tables.Set(&row.fd, pidfd)
		row.pid.Store(uint64(p.PID))
	}
	return func() { w.drop(row) }
}

func (w *Watches) drop(row *watchRow) {
	row.pid.Store(0)
	w.rows.Give(row)
}

// CloseUnclaimed closes the pidfds of processes on which no lock depends any more.
func (w *Watches) CloseUnclaimed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.inherited {
		w.drop(i.row)
		if i.pidfd >= 0 {
			unix.Close(i.pidfd)
		}
	}
	clear(w.inherited)
}
