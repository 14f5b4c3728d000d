package lockstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"latchfs/bootid"
)

const (
	// turnLength is how long a name stays reserved for the process whose turn it is.
	turnLength = time.Second
	// lookInterval is how often the first of those who wait looks at a name of which nobody
	// tells when it becomes free: a lock that is unknown and grows old, a file that is no lock.
	lookInterval = time.Second
)

// waiting is who waits for which name. A name that becomes free is reserved at once, in its section,
// for who has waited longest, so that nobody who comes by takes it first.
type waiting struct {
	names atomic.Int64 // of queues, so that who does not wait pays for one load

	mu     sync.Mutex // innermost
	queues map[string]*queue
}

// queue is who waits for one name. It is there while somebody waits or has the turn.
type queue struct {
	waiters []*waiter // in the order of their tickets
	turn    *turn     // nil while it is nobody's
}

// waiter is one call of Wait. While it is in no queue it has the turn.
type waiter struct {
	ticket uint64
	process,
	script bootid.Process // its nearest ancestor, which stands in for a command that has ended
	turns chan *turn // of one
}

// turn is the time in which the name is reserved for a waiter.
type turn struct {
	of    *waiter
	sure  bool // the name is free; else it has to be looked at
	timer *time.Timer
}

// Wait returns nil when it is the turn of process p to take the lock of that name: nobody waits who has a
// smaller ticket, the name is free, and for a second it is reserved for p. If p has ended by
// then, as cat(1) in a script, it is its nearest ancestor's. It returns ErrInterrupted when cancel is
// closed; if it is before, it is the answer unless it is p's turn at once.
func (s *Store) Wait(cancel <-chan struct{}, name string, ticket uint64, p bootid.Process) error {
	w := &waiter{ticket: ticket, process: p, turns: make(chan *turn, 1)}
	if p.Known() {
		if ancestors := s.processes.ancestors(p); len(ancestors) > 0 {
			w.script = ancestors[0]
		}
	}
	s.waiting.join(name, w)
	s.next(name, false)
	again := time.NewTimer(lookInterval)
	again.Stop()
	defer again.Stop()
	for {
		var t *turn
		select {
		case t = <-w.turns: // first, for who does not wait
		default:
			select {
			case t = <-w.turns:
			case <-again.C:
				s.next(name, false)
				continue
			case <-cancel:
				s.waiting.leave(name, w)
				s.next(name, false)
				return fmt.Errorf("%s: %w", name, ErrInterrupted)
			}
		}
		if t.sure {
			return nil
		}
		free, told, err := s.takeTurn(name, t)
		if err != nil || free {
			s.next(name, false)
			return err
		}
		if again.Stop(); !told {
			again.Reset(lookInterval)
		}
	}
}

// takeTurn looks whether the name is free. If not, its waiter waits on; told says that it will be
// told.
func (s *Store) takeTurn(name string, t *turn) (free, told bool, err error) {
	section := s.Enter(name)
	defer section.Leave()
	file, err := s.files.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		free = true
		section.Look(nil, nil)
	case err != nil:
		s.waiting.end(name, t)
		return false, false, err
	default:
		free = !section.Look(&file, &Sighting{})
	}
	if free {
		if s.waiting.isOn(name, t) {
			return true, true, nil
		}
		s.waiting.join(name, t.of) // it took too long
		s.next(name, false)
		return false, true, nil
	}
	// In the section: who frees the name after this finds the waiter back in its place.
	s.waiting.giveBack(name, t)
	r := section.record()
	return false, r != nil && s.maxHold == 0 && s.judge(r).Verdict == Live, nil
}

// freed tells that the name, whose section that is, has become free.
func (c Section) freed() { c.store.next(c.name, true) }

// next gives the turn at a name to who has waited longest, if it is nobody's; sure says that the name
// is free.
func (s *Store) next(name string, sure bool) {
	ws := &s.waiting
	if ws.names.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queues[name]
	if q == nil || q.turn != nil {
		return
	}
	if len(q.waiters) == 0 {
		ws.drop(name)
		return
	}
	t := &turn{of: q.waiters[0], sure: sure}
	q.waiters[0] = nil
	q.waiters = q.waiters[1:]
	q.turn = t
	t.timer = time.AfterFunc(turnLength, func() {
		ws.end(name, t)
		s.next(name, false)
	})
	t.of.turns <- t
}

// nextOfAll does so for every name: a directory was renamed.
func (s *Store) nextOfAll() {
	if s.waiting.names.Load() == 0 {
		return
	}
	s.waiting.mu.Lock()
	names := make([]string, 0, len(s.waiting.queues))
	for name := range s.waiting.queues {
		names = append(names, name)
	}
	s.waiting.mu.Unlock()
	for _, name := range names {
		s.next(name, false)
	}
}

// admitTaker returns ErrReserved if the name is reserved for others than p.
func (s *Store) admitTaker(name string, p bootid.Process) error {
	if s.waiting.names.Load() == 0 {
		return nil
	}
	s.waiting.mu.Lock()
	var w *waiter
	if q := s.waiting.queues[name]; q != nil && q.turn != nil {
		w = q.turn.of
	}
	s.waiting.mu.Unlock()
	switch {
	case w == nil, w.process == (bootid.Process{}) && !p.Known(), related(s.sys, p, w.process):
		return nil
	case related(s.sys, p, w.script):
		if now, err := s.sys.Process(w.process.PID); err != nil || !now.Same(w.process) || s.sys.Exiting(w.process) {
			return nil
		}
	}
	return fmt.Errorf("%s: %w: it is the turn of %v", name, ErrReserved, w.process)
}

// taken ends the turn at a name that somebody took.
func (s *Store) taken(name string) {
	ws := &s.waiting
	if ws.names.Load() == 0 {
		return
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if q := ws.queues[name]; q != nil && q.turn != nil {
		q.turn.timer.Stop()
		q.turn = nil
		if len(q.waiters) == 0 {
			ws.drop(name)
		}
	}
}

// drop takes a queue away; mu is held.
func (ws *waiting) drop(name string) {
	delete(ws.queues, name)
	ws.names.Store(int64(len(ws.queues)))
}

// join puts w into the queue of the name.
func (ws *waiting) join(name string, w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.queues == nil {
		ws.queues = make(map[string]*queue)
	}
	q := ws.queues[name]
	if q == nil {
		q = &queue{}
		ws.queues[name] = q
		ws.names.Store(int64(len(ws.queues)))
	}
	q.add(w)
}

func (q *queue) find(w *waiter) (int, bool) {
	return slices.BinarySearchFunc(q.waiters, w, func(a, b *waiter) int { return cmp.Compare(a.ticket, b.ticket) })
}

func (q *queue) add(w *waiter) {
	at, _ := q.find(w)
	q.waiters = slices.Insert(q.waiters, at, w)
}

// leave takes w out of the queue, or its turn from it.
func (ws *waiting) leave(name string, w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queues[name]
	switch {
	case q == nil:
	case q.turn != nil && q.turn.of == w:
		q.turn.timer.Stop()
		q.turn = nil
	default:
		if at, ok := q.find(w); ok && q.waiters[at] == w {
			q.waiters = slices.Delete(q.waiters, at, at+1)
		}
	}
}

// end ends a turn that is not over.
func (ws *waiting) end(name string, t *turn) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if q := ws.queues[name]; q != nil && q.turn == t {
		t.timer.Stop()
		q.turn = nil
	}
}

// isOn says that a turn is not over.
func (ws *waiting) isOn(name string, t *turn) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queues[name]
	return q != nil && q.turn == t
}

// giveBack puts the waiter of a turn back into its place.
func (ws *waiting) giveBack(name string, t *turn) {
	ws.end(name, t)
	ws.join(name, t.of)
}

// count is how many wait.
func (ws *waiting) count() (n int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, q := range ws.queues {
		n += len(q.waiters)
	}
	return n
}

// Waiting is how many wait for their turn at a name.
func (s *Store) Waiting() int { return s.waiting.count() }
