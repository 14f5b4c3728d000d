package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// lookInterval is how often the first waiter of a name looks at it if nothing reports when it becomes free: at a
// lock that is unknown and grows old, or a file that is no lock.
const lookInterval = time.Second

// Waiter is a process that waits for a name. It is in the name's queue until it has the turn or is done.
type Waiter struct {
	store   *Store
	name    string
	ticket  uint64 // a smaller one comes first
	uid     uint32
	since   time.Time
	process bootid.Process
	script  bootid.Process // its nearest ancestor, which stands in for a command that has ended
	tell    func(error)    // called once
	again   *time.Timer    // looks at the name if nothing reports that it is free; nil before
	done    bool           // guarded by waiting.mu
	// watch watches the process while it waits, so that it need not be looked up when it takes the lock.
	watch  *watched
	record *record // stands for the waiter in watch; the map does not have it
}

// Await calls tell, once, when it is the turn of process p of user uid to take the lock of that name: no waiter has
// a smaller ticket, the name is free, and it is reserved for p for turnLength. If p has ended, as cat(1) in a
// script has, its nearest ancestor has the turn. Await may call tell before it returns, and within the name lock in
// which the name becomes free: tell must not enter one. The error is ErrInterrupted after Cancel, or an error of
// Files.
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

// Cancel ends the wait.
func (w *Waiter) Cancel() {
	if w.store.waiting.finish(w) {
		w.tell(fmt.Errorf("%s: %w", w.name, ErrInterrupted))
		w.store.lookSoon(w.name)
	}
}

// freeing wakes the first waiter of a name that is about to become free: waking it takes about as long as freeing
// the name. What the waiter asks about the name is answered when the name lock is left. If the name does not become
// free after all, the waiter finds it held and waits again. Freeing is not called when a holder unlinks the file:
// the waiter would have to sleep for the kernel's lock of the directory.
func (c NameLock) freeing() {
	if t := c.store.waiting.give(c.store, c.name, true); t != nil {
		t.early = true // within the name lock, as freed is called
		t.of.tell(nil)
	}
}

// freed gives the turn at the name, which has become free, to its first waiter.
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

// publish publishes that it is the turn of w.
func (w *Waiter) publish() {
	now := w.store.now()
	w.store.events.publish(Event{
		Transition: Turn, Lock: Lock{Name: w.name}, By: w.process, Waited: now.Sub(w.since), Time: now,
	})
}

// look has the first waiter of a name look whether it is free. It must not be called within the name lock.
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

// lookSoon calls look in the background.
func (s *Store) lookSoon(name string) {
	if s.waiting.names.Load() > 0 {
		go s.look(name)
	}
}

// takeTurn looks whether the name is free. If it is not, its waiter goes on waiting.
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
	// Within the name lock, so that the waiter is back in its place when another process frees the name.
	r := nameLock.record()
	reported := r != nil && s.maxHold == 0 && s.judge(r).Verdict == verdict.Live
	s.waiting.giveBack(t, !reported)
	return nil
}

// lookAtAll has the first waiter of every name look whether it is free, after a directory was renamed.
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

// admitTaker returns ErrReserved if the name is reserved for another process than p.
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

// taken ends the turn at a name whose lock was acquired.
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
			ws.remove(name)
		}
	}
}

// Waiting returns how many processes wait for their turn at a name.
func (s *Store) Waiting() (n int) {
	s.waiting.mu.Lock()
	defer s.waiting.mu.Unlock()
	for _, q := range s.waiting.queues {
		n += len(q.waiters)
	}
	return n
}
