package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
)

// releaseGrace is how long a look at a lock whose creator has just ended waits for
// word that its descriptor is closed. The kernel sends that word before it tells of the
// death, but it may still be on its way through another thread.
const releaseGrace = 5 * time.Millisecond

func (c Section) record() *record {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.locks[c.name]
}

// Held says whether there is a lock of the name, whatever its verdict.
func (c Section) Held() bool { return c.record() != nil }

// Look decides whether the file at the name may be seen; nil is that there is none.
// What is stale is reclaimed first. Unmanaged is kept by the caller for each file and
// remembers that a file without a record, as it was last changed, is no lock.
func (c Section) Look(file *File, unmanaged *atomic.Int64) (visible bool) {
	r := c.record()
	switch {
	case file == nil:
		if r != nil {
			c.store.drop(r, Released, "")
		}
		return false
	case r != nil:
		return c.lookRecorded()
	case unmanaged.Load() == file.Changed.UnixNano():
		return true
	}
	return c.lookFound(*file, unmanaged)
}

// lookRecorded judges the lock there is and does what follows. It says whether the
// file is still there.
func (c Section) lookRecorded() bool {
	r := c.record()
	if r == nil {
		return true
	}
	d := c.store.judge(r)
	if d.Verdict == Live && d.Rule == RuleDescriptor && c.store.awaitClose(r) {
		d = c.store.judge(r)
	}
	return c.settle(r, d)
}

// settle does what follows from a decision on r: nothing while it is live or unknown
// but for passing it on to another holder. It says whether the file is still there.
func (c Section) settle(r *record, d decision) bool {
	switch d.Verdict {
	case Live:
		c.store.pass(r, d.holder, d.Rule)
	case Settled:
		c.store.drop(r, Dropped, "")
	case Stale:
		return c.reclaim(r, d.Judgment) != nil
	}
	return true
}

// awaitClose waits a moment for the descriptor r was made with to be closed, if its
// creator ended only just now. It says whether that is so.
func (s *Store) awaitClose(r *record) bool {
	s.mu.Lock()
	creator, closed := r.creator, r.closed
	s.mu.Unlock()
	if creator == nil || closed == nil {
		return false
	}
	endedAt, ended := s.processes.hasEnded(creator)
	if !ended || s.now().Sub(endedAt) > 10*releaseGrace {
		return false
	}
	select {
	case <-closed:
		return true
	case <-time.After(releaseGrace):
		return false
	}
}

// lookFound judges a file without a record.
func (c Section) lookFound(file File, unmanaged *atomic.Int64) bool {
	s := c.store
	payload, err := s.read(c.name, file)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	switch d := s.judgeFound(file, payload); d.Verdict {
	case Settled:
		unmanaged.Store(file.Changed.UnixNano())
	case Live:
		// Adopted without a word to the journal when there is no space for it: it
		// would be judged the same after a restart.
		if _, err := c.acquire(bootid.Process{}, d.holder, RuleNamed, file.Written); err != nil && !errors.Is(err, ErrNoSpace) {
			s.log.WithError(err).WithField("path", c.name).Warn("could not take over a lock found without a record")
		}
	case Stale:
		return c.reclaim(&record{Lock: Lock{Name: c.name, Generation: s.generation.Add(1)}, gone: true}, d.Judgment) != nil
	}
	return true
}

// Acquire records a lock of the name for creator before its file is made. The caller
// makes the file next and calls Release if it cannot. It returns ErrExists or
// ErrNoSpace.
func (c Section) Acquire(creator bootid.Process) (*Descriptor, error) {
	rule := RuleCreator
	if !creator.Known() {
		rule = RuleNobody
	}
	r, err := c.acquire(creator, creator, rule, c.store.now())
	if err != nil {
		return nil, err
	}
	c.store.mu.Lock()
	r.open, r.closed = true, make(chan struct{})
	c.store.mu.Unlock()
	return &Descriptor{r}, nil
}

func (c Section) acquire(creator, holder bootid.Process, rule Rule, made time.Time) (*record, error) {
	s := c.store
	r := &record{Lock: Lock{
		Name: c.name, Generation: s.generation.Add(1), Made: made,
		BootID: s.boot.ID, MachineID: s.boot.MachineID,
		Creator: creator, Holder: holder, Rule: rule,
	}}
	s.attach(r)
	s.mu.Lock()
	var err error
	if s.locks[c.name] != nil {
		err = ErrExists
	} else {
		err = s.journal.put(&r.Lock, true)
	}
	if err == nil {
		s.locks[c.name] = r
		s.events.publish(Event{Kind: Acquired, Lock: r.Lock, Time: made})
	}
	s.mu.Unlock()
	if err != nil {
		s.detach(r)
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	s.compactIfDue()
	return r, nil
}

// Release ends the lock of the name, if there is one, after its file was removed or
// renamed away, or could not be made.
func (c Section) Release() {
	if r := c.record(); r != nil {
		c.store.drop(r, Released, "")
	}
}

// Move gives the lock of c the name of to, after its file was renamed so. If to has a
// lock already that one stays and the lock of c ends: ownership belongs to the name.
func (c Section) Move(to Section) {
	s := c.store
	r := c.record()
	if r == nil {
		return
	}
	if to.record() != nil {
		s.drop(r, Released, "")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, c.name)
	s.rename(r, to.name)
}

// Replaced tells that another file was renamed onto the name. A live lock stays with
// its holder, whose family did it; any other ends.
func (c Section) Replaced() {
	if r := c.record(); r != nil && c.store.judge(r).Verdict != Live {
		c.store.drop(r, Released, "")
	}
}

// Admit says whether the process that who returns may change or remove the file at
// the name: ErrHeld if it is a live lock of another family. Attempt is for the log.
func (c Section) Admit(who func() bootid.Process, attempt string) error {
	s := c.store
	r := c.record()
	if r == nil {
		return nil
	}
	d := s.judge(r)
	if d.Verdict != Live {
		if d.Verdict == Settled {
			c.settle(r, d)
		}
		return nil
	}
	s.pass(r, d.holder, d.Rule)
	s.mu.Lock()
	l := r.Lock
	s.mu.Unlock()
	caller := who()
	if related(s.sys, caller, l.Holder) || related(s.sys, caller, l.Creator) {
		return nil
	}
	// Word that the descriptor of a data file is closed may still be on its way.
	if _, payload, err := s.inspect(c.name); err == nil && payload.Class == Data && !s.sys.HasOpen(l.Creator, "/"+l.Name) {
		s.drop(r, Dropped, "")
		return nil
	}
	s.log.WithFields(fields(l)).WithFields(logrus.Fields{"caller": caller.String(), "attempt": attempt}).
		Warn("refused: the lock is held")
	return fmt.Errorf("%s: %w by %v", c.name, ErrHeld, l.Holder)
}

// drop takes r out of the store. A journal that cannot be written does not keep it: its
// file is gone or no lock, and would be found so after a restart.
func (s *Store) drop(r *record, kind Kind, reason Reason) {
	s.mu.Lock()
	dropped := !r.gone
	if dropped {
		if err := s.journal.delete(&r.Lock); err != nil {
			s.log.WithError(err).WithField("path", r.Name).Error("the end of a lock could not be journaled")
		}
		delete(s.locks, r.Name)
		r.gone = true
	}
	if dropped || kind == Reaped {
		s.events.publish(Event{Kind: kind, Lock: r.Lock, Reason: reason, Time: s.now()})
	}
	s.mu.Unlock()
	s.detach(r)
	s.compactIfDue()
}

func (s *Store) detach(r *record) {
	s.processes.detach(r.creator, r)
	if r.holder != r.creator {
		s.processes.detach(r.holder, r)
	}
}

// pass makes holder the holder of r, if it is not already.
func (s *Store) pass(r *record, holder bootid.Process, rule Rule) {
	s.mu.Lock()
	same := r.gone || r.Rule == rule && (!holder.Known() || holder.Same(r.Holder))
	s.mu.Unlock()
	if same {
		return
	}
	w := r.holder
	if holder.Known() && !holder.Same(r.Holder) {
		w = s.processes.attach(holder, r)
	} else {
		holder = r.Holder
	}
	s.mu.Lock()
	before := r.holder
	passed := !holder.Same(r.Holder)
	r.Holder, r.Rule, r.holder = holder, rule, w
	if passed {
		if err := s.journal.put(&r.Lock, false); err != nil {
			s.log.WithError(err).WithFields(fields(r.Lock)).Error("the new holder of a lock could not be journaled")
		}
		s.events.publish(Event{Kind: Passed, Lock: r.Lock, Time: s.now()})
	}
	l := r.Lock
	s.mu.Unlock()
	if before != w && before != r.creator {
		s.processes.detach(before, r)
	}
	if passed {
		s.log.WithFields(fields(l)).WithField("rule", rule).Debug("a lock has another holder")
	}
}
