package lockstore

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"latchfs/bootid"
)

// maxIdleWatches is how many processes without locks stay watched, so that a process that locks again and again is
// not looked up each time.
const maxIdleWatches = 256

// processKey tells a process from every other of a boot.
type processKey struct {
	pid   int
	start uint64 // clock ticks since boot
}

// watched is a process some lock depends on.
type watched struct {
	process bootid.Process
	runs    string       // the evidence that it runs; made once, as locks are judged often
	watch   bootid.Watch // nil if it had ended already, or could not be watched

	// Guarded by processes.mu.
	records   map[*record]struct{}
	endedAt   time.Time // zero while it runs as far as is known
	ancestors []bootid.Process
	asked     bool             // ancestors is set
	named     []bootid.Process // the last maxNamed relatives that texts of its locks may name
}

// maxNamed is how many relatives are remembered of a process.
const maxNamed = 64

// processes has the watched processes: one watch for each process, not for each lock.
type processes struct {
	sys   bootid.System
	now   func() time.Time
	ended func(*watched) // called in a goroutine of its own

	mu     sync.Mutex
	all    map[processKey]*watched
	closed bool
	dying  sync.WaitGroup // calls of ended
}

// attach makes r depend on p. If p has ended already, the endedAt of the result is set.
func (ps *processes) attach(p bootid.Process, r *record) *watched {
	key := processKey{p.PID, p.StartTime}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	w := ps.all[key]
	if w == nil {
		w = &watched{process: p, runs: fmt.Sprintf("process %v runs", p), records: make(map[*record]struct{})}
		watch, err := ps.sys.Watch(p, func() { go ps.died(w) })
		switch {
		case err == nil:
			w.watch = watch
		case errors.Is(err, bootid.ErrNoProcess):
			w.endedAt = ps.now()
		}
		// After any other error, hasEnded looks the process up each time.
		if len(ps.all) >= maxIdleWatches {
			ps.sweep()
		}
		ps.all[key] = w
	}
	w.records[r] = struct{}{}
	return w
}

// attachShared makes r depend on p, if p is known. It returns the one copy of p that all locks of the process
// share.
func (ps *processes) attachShared(p *bootid.Process, r *record) (*watched, *bootid.Process) {
	if !p.Known() {
		return nil, &nobody
	}
	w := ps.attach(*p, r)
	if w.process == *p {
		return w, &w.process
	}
	own := *p // its user or command has changed since
	return w, &own
}

// ancestors are those of p that can come to hold its locks. Of a process that has locks they
// are asked for once: one that has ended since is passed over when it comes to it.
func (ps *processes) ancestors(p bootid.Process) []bootid.Process {
	key := processKey{p.PID, p.StartTime}
	ps.mu.Lock()
	w := ps.all[key]
	if w != nil && w.asked {
		defer ps.mu.Unlock()
		return w.ancestors
	}
	ps.mu.Unlock()
	chain := ps.sys.Ancestors(p)
	if w != nil {
		ps.mu.Lock()
		defer ps.mu.Unlock()
		w.ancestors, w.asked = chain, true
	}
	return chain
}

// relatives returns the processes that w is known to be related to, whether they run or not.
func (ps *processes) relatives(w *watched) []bootid.Process {
	if w == nil {
		return nil
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return slices.Concat(w.ancestors, w.named)
}

// addRelatives remembers relatives of w.
func (ps *processes) addRelatives(w *watched, relatives ...bootid.Process) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range relatives {
		if !slices.ContainsFunc(w.named, p.Same) {
			w.named = append(w.named, p)
		}
	}
	w.named = w.named[max(0, len(w.named)-maxNamed):]
}

// detach undoes attach.
func (ps *processes) detach(w *watched, r *record) {
	if w == nil {
		return
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(w.records, r)
	if len(w.records) == 0 && (!w.endedAt.IsZero() || w.watch == nil) {
		ps.forget(w)
	}
}

// sweep forgets the processes no lock depends on.
func (ps *processes) sweep() {
	for _, w := range ps.all {
		if len(w.records) == 0 {
			ps.forget(w)
		}
	}
}

func (ps *processes) forget(w *watched) {
	delete(ps.all, processKey{w.process.PID, w.process.StartTime})
	if w.watch != nil {
		w.watch.Stop()
	}
}

func (ps *processes) died(w *watched) {
	ps.mu.Lock()
	if ps.closed {
		ps.mu.Unlock()
		return
	}
	ps.dying.Add(1)
	ps.mu.Unlock()
	defer ps.dying.Done()
	ps.markEnded(w)
	ps.ended(w)
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if len(w.records) == 0 {
		ps.forget(w)
	}
}

func (ps *processes) markEnded(w *watched) time.Time {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if w.endedAt.IsZero() {
		w.endedAt = ps.now()
	}
	return w.endedAt
}

// hasEnded asks the kernel whether w has ended, and returns when that was first known.
func (ps *processes) hasEnded(w *watched) (time.Time, bool) {
	if at := ps.toldEnd(w); !at.IsZero() {
		return at, true
	}
	if w.watch != nil {
		if !w.watch.Ended() {
			return time.Time{}, false
		}
	} else if p, err := ps.sys.Process(w.process.PID); err == nil && p.StartTime == w.process.StartTime ||
		err != nil && !errors.Is(err, bootid.ErrNoProcess) {
		return time.Time{}, false
	}
	return ps.markEnded(w), true
}

// seemsToRun reports whether w is watched and its watch did not report its end.
func (ps *processes) seemsToRun(w *watched) bool {
	return w != nil && w.watch != nil && ps.toldEnd(w).IsZero()
}

// toldEnd returns when the end of w was first known, zero while it is not.
func (ps *processes) toldEnd(w *watched) time.Time {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return w.endedAt
}

// recordsOf returns the locks that depend on w.
func (ps *processes) recordsOf(w *watched) []*record {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	records := make([]*record, 0, len(w.records))
	for r := range w.records {
		records = append(records, r)
	}
	return records
}

func (ps *processes) isClosed() bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.closed
}

// close ends all watches and waits until all reported deaths are handled.
func (ps *processes) close() {
	ps.mu.Lock()
	ps.closed = true
	ps.mu.Unlock()
	ps.dying.Wait()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, w := range ps.all {
		ps.forget(w)
	}
}
