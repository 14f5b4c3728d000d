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
	"latchfs/lockstore/verdict"
)

const (
	// turnLength is how long a name stays reserved for the process whose turn it is.
	turnLength = time.Second
	// lookInterval is how often the first of those who wait looks at a name of which nobody
	// tells when it becomes free: a lock that is unknown and grows old, a file that is no lock.
	lookInterval = time.Second
)

// waiting is who waits for which name. A name that becomes free is reserved at once, in its name lock,
// for who has waited longest, so that nobody who comes by takes it first.
type waiting struct {
	names atomic.Int64 // of queues, so that who does not wait pays for one load

	mu     sync.Mutex // within it only processes.mu is taken
	queues map[string]*queue
}

// queue is who waits for one name. It is there while somebody waits, has the turn or has not used it.
type queue struct {
	waiters []*Waiter // in the order of their tickets
	turn    *turn     // nil while it is nobody's
	// unused are the users who did not use their turn. They have no other before the name was taken, or was free to anybody for as
	// long as a turn: nobody is kept out by turns that nobody uses.
	unused map[uint32]bool
	free   *time.Timer // ends that; nil before
}

// Waiter is who waits for a name. While it is in no queue it has the turn, or is done.
type Waiter struct {
	store  *Store
	name   string
	ticket uint64
	uid    uint32
	since  time.Time
	process,
	script bootid.Process // its nearest ancestor, which stands in for a command that has ended
	tell  func(error) // once
	again *time.Timer // when nobody tells that the name is free; nil before
	done  bool        // guarded by waiting.mu
	// watch has the process watched while it waits, so that it need not be looked up when it takes the lock.
	watch  *watched
	record *record // none of the map, for watch
}

// turn is the time in which the name is reserved for a waiter.
type turn struct {
	of    *Waiter
	timer *time.Timer
	early bool // its waiter was told before the name was free, which is to be published
}

// Await has tell called, once, when it is the turn of process p of user uid to take the lock of that name: nobody waits
// who has a smaller ticket, the name is free, and for a second it is reserved for p. If p has ended by
// then, as cat(1) in a script, it is its nearest ancestor's. It may be called at once, and within the name lock in
// which the name becomes free: it must not enter one. Its error is ErrInterrupted after Cancel, or what Files says.
func (s *Store) Await(name string, ticket uint64, uid uint32, p bootid.Process, tell func(error)) *Waiter {
	w := &Waiter{store: s, name: name, ticket: ticket, uid: uid, since: s.now(), process: p, tell: tell}
	if p.Known() {
		w.record = &record{gone: true}
		w.watch = s.processes.attach(p, w.record)
		if ancestors := s.processes.ancestors(p); len(ancestors) > 0 {
			w.script = ancestors[0]
		}
	}
	s.waiting.join(w)
	s.look(name)
	return w
}

// Cancel has it wait no more.
func (w *Waiter) Cancel() {
	if w.store.waiting.finish(w) {
		w.tell(fmt.Errorf("%s: %w", w.name, ErrInterrupted))
		w.store.lookSoon(w.name)
	}
}

// freeing tells that the name is about to become free: to wake who has waited longest takes about as long as to free it. What he
// asks about the name is answered when the name lock is left. Should it not become free after all, he finds it held and waits
// again. Of one that its holder unlinks it is not told: he would have to sleep for the kernel's lock on the directory.
func (c NameLock) freeing() {
	if t := c.store.waiting.give(c.store, c.name, true); t != nil {
		t.early = true // in the name lock, as freed
		t.of.tell(nil)
	}
}

// freed tells that the name, whose name lock that is, has become free.
func (c NameLock) freed() {
	s := c.store
	if t := s.waiting.early(c.name); t != nil {
		t.of.publish()
	} else if t := s.waiting.give(s, c.name, true); t != nil {
		t.of.turn()
	}
}

// turn tells w that its turn has come.
func (w *Waiter) turn() {
	w.publish()
	w.tell(nil)
}

// publish tells everybody.
func (w *Waiter) publish() {
	now := w.store.now()
	w.store.events.publish(Event{Transition: Turn, Lock: Lock{Name: w.name}, By: w.process, Waited: now.Sub(w.since), Time: now})
}

// look has who has waited longest look whether the name is free, outside of its name lock.
func (s *Store) look(name string) {
	for {
		t := s.waiting.give(s, name, false)
		if t == nil {
			return
		}
		err := s.takeTurn(t)
		if err == nil {
			return
		}
		if s.waiting.finish(t.of) {
			t.of.tell(err)
		}
	}
}

// lookSoon does so soon.
func (s *Store) lookSoon(name string) {
	if s.waiting.names.Load() > 0 {
		go s.look(name)
	}
}

// takeTurn looks whether the name is free. If not, its waiter waits on.
func (s *Store) takeTurn(t *turn) error {
	w := t.of
	nameLock := s.Enter(w.name)
	defer nameLock.Leave()
	file, err := s.files.Stat(w.name)
	free := errors.Is(err, fs.ErrNotExist)
	switch {
	case free:
		nameLock.Look(nil, nil)
	case err != nil:
		return err
	default:
		free = !nameLock.Look(&file, &CachedJudgment{})
	}
	if free {
		if s.waiting.keep(t) {
			w.turn()
		}
		return nil
	}
	// In the name lock: who frees the name after this finds the waiter back in its place.
	r := nameLock.record()
	told := r != nil && s.maxHold == 0 && s.judge(r).Verdict == verdict.Live
	s.waiting.giveBack(t, !told)
	return nil
}

// give gives the turn at a name to who has waited longest, if it is nobody's. Without sure that has to be found
// out: the name may not be free.
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
		ws.drop(name)
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

// early is the turn at a name of which freeing told, once.
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

// lookAtAll does so for every name: a directory was renamed.
func (s *Store) lookAtAll() {
	if s.waiting.names.Load() == 0 {
		return
	}
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	for name := range s.waiting.queues {
		go s.look(name)
	}
}

// admitTaker returns ErrReserved if the name is reserved for others than p.
func (s *Store) admitTaker(name string, p bootid.Process) error {
	if s.waiting.names.Load() == 0 {
		return nil
	}
	s.waiting.mu.Lock()
	var w *Waiter
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
	if q := ws.queues[name]; q != nil {
		if q.turn != nil {
			q.endTurn()
		}
		q.forgive()
		if len(q.waiters) == 0 {
			ws.drop(name)
		}
	}
}

// forgive forgets whose turns were not used.
func (ws *waiting) forgive(q *queue) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	q.forgive()
}

// forgive does so; mu is held.
func (q *queue) forgive() {
	if q.free != nil {
		q.free.Stop()
	}
	q.unused, q.free = nil, nil
}

// drop takes a queue away; mu is held.
func (ws *waiting) drop(name string) {
	delete(ws.queues, name)
	ws.names.Store(int64(len(ws.queues)))
}

// join puts w into the queue of its name.
func (ws *waiting) join(w *Waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.add(w)
}

// add does so; mu is held.
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

func (q *queue) find(w *Waiter) (int, bool) {
	return slices.BinarySearchFunc(q.waiters, w, func(a, b *Waiter) int { return cmp.Compare(a.ticket, b.ticket) })
}

// queueIn is the queue whose turn t is; nil if that is over. mu is held.
func (ws *waiting) queueIn(t *turn) *queue {
	if q := ws.queues[t.of.name]; q != nil && q.turn == t {
		return q
	}
	return nil
}

// endTurn makes the turn nobody's; mu is held.
func (q *queue) endTurn() {
	q.turn.timer.Stop()
	q.turn = nil
}

// finished says that there is something to tell w; mu is held.
func (w *Waiter) finished() {
	w.done = true
	w.store.processes.detach(w.watch, w.record)
	if w.again != nil {
		w.again.Stop()
	}
}

// finish takes w out of the queue, or the turn from it. It says whether w is to be told, which happens once.
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

// expire ends a turn that was not used. One that was still being looked at goes back into the queue.
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

// keep says that a turn is not over and its waiter is to be told.
func (ws *waiting) keep(t *turn) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.queueIn(t) == nil || t.of.done {
		return false
	}
	t.of.finished()
	return true
}

// giveBack puts the waiter of a turn back into its place, to look again by itself or not.
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

// Waiting is how many wait for their turn at a name.
func (s *Store) Waiting() (n int) {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	for _, q := range s.waiting.queues {
		n += len(q.waiters)
	}
	return n
}
