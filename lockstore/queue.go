package lockstore

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// turnLength is how long a name stays reserved for the process whose turn it is.
const turnLength = time.Second

// waiting has the queues of all names. A name that becomes free is reserved within its name lock for the process
// that has waited longest, so that no passer-by takes it first.
type waiting struct {
	names atomic.Int64 // number of queues: processes that do not wait pay for one load

	mu     sync.Mutex // only processes.mu is taken within it
	queues map[string]*queue
}

// queue has the waiters of one name. It exists while one waits, has the turn or has not used it.
type queue struct {
	waiters []*Waiter // in the order of their tickets
	turn    *turn     // nil while nobody has it
	// unused has the users that did not use their turn. They get no other until the name was taken, or was free to
	// everybody for as long as a turn: unused turns keep nobody out.
	unused map[uint32]bool
	free   *time.Timer // empties unused; nil before
}

// turn is the time for which a name is reserved for a waiter.
type turn struct {
	of    *Waiter
	timer *time.Timer
	early bool // the waiter was told before the name was free; the turn is not published yet
}

// give gives the turn at a name to its first waiter, if nobody has it, and returns it. Unless sure, the name may
// not be free, which the waiter has to find out.
func (ws *waiting) give(s *Store, name string, sure bool) *turn {
	if ws.names.Load() == 0 {
		return nil
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queues[name]
	if q == nil || q.turn != nil {
		return nil
	}
	next := slices.IndexFunc(q.waiters, func(w *Waiter) bool { return !q.unused[w.uid] })
	switch {
	case next < 0 && len(q.unused) == 0:
		ws.remove(name)
		return nil
	case next < 0:
		if q.free == nil {
			q.free = time.AfterFunc(turnLength, func() {
				ws.forgive(q)
				s.look(name)
			})
		}
		return nil
	}
	t := &turn{of: q.waiters[next]}
	q.waiters = slices.Delete(q.waiters, next, next+1)
	q.turn = t
	t.timer = time.AfterFunc(turnLength, func() {
		if ws.expire(t) {
			s.look(name)
		}
	})
	if sure {
		t.of.finished()
	}
	return t
}

// early returns, once, the turn at a name whose waiter freeing has told.
func (ws *waiting) early(name string) *turn {
	if ws.names.Load() == 0 {
		return nil
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queues[name]
	if q == nil || q.turn == nil || !q.turn.early {
		return nil
	}
	q.turn.early = false
	return q.turn
}

// forgive forgets which users did not use their turns.
func (ws *waiting) forgive(q *queue) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q.forgive()
}

// forgive forgets which users did not use their turns; waiting.mu is held.
func (q *queue) forgive() {
	if q.free != nil {
		q.free.Stop()
	}
	q.unused, q.free = nil, nil
}

// remove removes a queue; mu is held.
func (ws *waiting) remove(name string) {
	delete(ws.queues, name)
	ws.names.Store(int64(len(ws.queues)))
}

// join puts w into the queue of its name.
func (ws *waiting) join(w *Waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.add(w)
}

// add puts w into the queue of its name; mu is held.
func (ws *waiting) add(w *Waiter) {
	if ws.queues == nil {
		ws.queues = make(map[string]*queue)
	}
	q := ws.queues[w.name]
	if q == nil {
		q = &queue{}
		ws.queues[w.name] = q
		ws.names.Store(int64(len(ws.queues)))
	}
	at, _ := q.find(w)
	q.waiters = slices.Insert(q.waiters, at, w)
}

// find returns the place of w in the queue, and reports whether a waiter has its ticket; waiting.mu is held.
func (q *queue) find(w *Waiter) (int, bool) {
	return slices.BinarySearchFunc(q.waiters, w, func(a, b *Waiter) int { return cmp.Compare(a.ticket, b.ticket) })
}

// queueIn returns the queue in which t is the turn, or nil if t is over; mu is held.
func (ws *waiting) queueIn(t *turn) *queue {
	if q := ws.queues[t.of.name]; q != nil && q.turn == t {
		return q
	}
	return nil
}

// endTurn ends the turn; waiting.mu is held.
func (q *queue) endTurn() {
	q.turn.timer.Stop()
	q.turn = nil
}

// finished marks w as done, before it is told; waiting.mu is held.
func (w *Waiter) finished() {
	w.done = true
	w.store.processes.detach(w.watch, w.record)
	if w.again != nil {
		w.again.Stop()
	}
}

// finish takes w out of the queue, or the turn from it. It reports, once, that w is to be told.
func (ws *waiting) finish(w *Waiter) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w.done {
		return false
	}
	w.finished()
	q := ws.queues[w.name]
	if q == nil {
		return true
	}
	if q.turn != nil && q.turn.of == w {
		q.endTurn()
	} else if at, ok := q.find(w); ok && q.waiters[at] == w {
		q.waiters = slices.Delete(q.waiters, at, at+1)
	}
	return true
}

// expire ends a turn that was not used, and reports whether it did. A waiter that is still looking at the name goes
// back into the queue.
func (ws *waiting) expire(t *turn) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q := ws.queueIn(t)
	if q == nil {
		return false
	}
	q.endTurn()
	switch {
	case !t.of.done:
		ws.add(t.of)
	case q.unused == nil:
		q.unused = map[uint32]bool{t.of.uid: true}
	default:
		q.unused[t.of.uid] = true
	}
	return true
}

// keep reports whether a turn is not over, so that its waiter is to be told.
func (ws *waiting) keep(t *turn) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.queueIn(t) == nil || t.of.done {
		return false
	}
	t.of.finished()
	return true
}

// giveBack puts the waiter of a turn back into its place. With again, it looks at the name again after
// lookInterval.
func (ws *waiting) giveBack(t *turn, again bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w, q := t.of, ws.queueIn(t)
	if q == nil {
		return
	}
	q.endTurn()
	ws.add(w)
	if again {
		w.again = time.AfterFunc(lookInterval, func() { w.store.look(w.name) })
	}
}
