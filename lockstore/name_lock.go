package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// restoredAge is how long before a lock was made the time of its file has to be for the file to be a copy.
const restoredAge = time.Minute

// releaseGrace is how long a look at a lock whose creator has just ended waits for
// word that its descriptor is closed. The kernel sends that word before it tells of the
// death, but it may still be on its way through another thread.
const releaseGrace = 5 * time.Millisecond

func (c NameLock) record() *record {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.locks[c.name]
}

// Held says whether there is a lock of the name, whatever its verdict.
func (c NameLock) Held() bool { return c.record() != nil }

// Look decides whether the file at the name may be seen; nil is that there is none.
// What is stale is reclaimed first.
func (c NameLock) Look(file *File, seen *CachedJudgment) (visible bool) {
	r := c.record()
	switch {
	case file == nil:
		if r != nil {
			c.store.drop(r, Released)
		}
		c.forget()
		c.freed()
		return false
	case r != nil:
		return c.lookRecorded()
	case seen.noLock.Load() == file.Changed.UnixNano():
		return true
	}
	return c.lookFound(*file, seen)
}

// lookRecorded judges the lock there is and does what follows. It says whether the
// file is still there.
func (c NameLock) lookRecorded() bool {
	r := c.record()
	if r == nil {
		return true
	}
	c.readNow(r)
	d := c.store.judge(r)
	if d.Verdict == verdict.Live && d.Rule == verdict.RuleDescriptor && c.store.awaitClose(r) {
		d = c.store.judge(r)
	}
	return c.settle(r, d)
}

// settle does what follows from a decision on r: nothing while it is live or unknown
// but for passing it on to another holder. It says whether the file is still there.
func (c NameLock) settle(r *record, d verdict.Decision) bool {
	s := c.store
	if d.Left && (d.Verdict == verdict.Live || d.Verdict == verdict.Unknown) {
		s.left(r)
	}
	switch d.Verdict {
	case verdict.Live:
		s.pass(r, d.Holder, d.Rule)
	case verdict.Settled:
		s.settleFile(r, d.Evidence)
	case verdict.Stale:
		return !c.removable(r) || c.reclaim(r, d.Judgment, Reaped) != nil
	}
	return true
}

// left records that the holder of r has ended with status 0.
func (s *Store) left(r *record) {
	s.mu.Lock()
	known := r.left || r.gone
	s.mu.Unlock()
	if known {
		return
	}
	s.change(r, "how the holder of a lock ended", func() { r.left = true })
	s.log.WithFields(fields(s.state(r).Lock)).WithField("reason", verdict.Left).Info("the holder of a lock has ended with status 0 and not removed it")
}

// change changes what is recorded of r, unless it is gone; what says what that is.
func (s *Store) change(r *record, what string, change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gone {
		return
	}
	change()
	l := r.lock(s.began)
	if err := s.journal.put(l, false); err != nil {
		s.log.WithError(err).WithFields(fields(l)).Error(what + " could not be journaled")
	}
}

// removable says that the file of a stale lock may go. Those who flock(2) a pid file
// exclude each other only as long as it is one file, so it stays while anybody has it
// open.
func (c NameLock) removable(r *record) bool {
	return r.Kind() != verdict.KindPIDFile && r.Kind() != verdict.KindFound || !c.store.files.Opened(c.name)
}

// awaitClose waits a moment for the descriptor r was made with to be closed, if its
// creator ended only just now. It says whether that is so.
func (s *Store) awaitClose(r *record) bool {
	s.mu.Lock()
	if r.open && r.closed == nil {
		r.closed = make(chan struct{})
	}
	creator, open, closed := r.creator, r.open, r.closed
	s.mu.Unlock()
	if !open || creator == nil {
		return !open
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
func (c NameLock) lookFound(file File, seen *CachedJudgment) bool {
	s := c.store
	writer, family := seen.Writer(), s.nobodys()
	if file.Type != Regular {
		writer = nil
	}
	if writer != nil {
		family = s.familyOfWriter(writer)
	}
	found, err := s.read(c.name, file, family)
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	if writer != nil {
		if c.adoptPIDFile(writer, found) {
			return c.lookRecorded()
		}
		c.remember(found)
	}
	if writer != nil || c.remembers(found) {
		seen.noLock.Store(file.Changed.UnixNano())
		return true
	}
	d := verdict.JudgeFound(s.foundFacts(c.name, found))
	l := Lock{Name: c.name, Kind: verdict.KindFound, Made: found.written, Holder: d.Holder, Rule: verdict.RuleNamed}
	switch d.Verdict {
	case verdict.Settled:
		seen.noLock.Store(file.Changed.UnixNano())
	case verdict.Live:
		c.adopt(l)
	case verdict.Stale:
		l.Generation = s.generation.Add(1)
		return c.settle(&record{kept: keep(l, s.began, &origin{}, &nobody, &l.Holder), gone: true}, d)
	}
	return true
}

// adoptPIDFile takes over an ordinary file whose payload names the process that wrote it, or
// one of its family, if that process may remove the file. It says whether it did.
func (c NameLock) adoptPIDFile(writer *Writer, found content) bool {
	if found.Type != Regular || !found.named.Known() || !writer.MayRemove {
		return false
	}
	c.forget()
	return c.adopt(Lock{
		Name: c.name, Kind: verdict.KindPIDFile, Made: found.written, Creator: writer.Process, Holder: found.named, Rule: verdict.RuleNamed,
	})
}

// TimeSet tells that a process has set the time of the file of the name; who returns the process. If it is of
// the family of a lock's maker and the time is well before the lock was made, the file was restored from
// a copy: it is no lock.
func (c NameLock) TimeSet(who func() bootid.Process, at time.Time) {
	s := c.store
	r := c.record()
	if r == nil || r.Kind() == verdict.KindFound {
		return
	}
	l := s.state(r)
	if caller := who(); at.Before(l.Made.Add(-restoredAge)) && (related(s.sys, caller, l.Creator) || related(s.sys, caller, l.Holder)) {
		s.settleFile(r, fmt.Sprintf("its time was set to %v, before it was made: it is a copy", at.Format(time.RFC3339)))
	}
}

// adopt records a lock whose file is there. Without space for it in the journal, or for another of its
// user's, it does not: it would be judged the same again.
func (c NameLock) adopt(l Lock) bool {
	_, err := c.acquire(l)
	if err != nil && !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrTooMany) {
		c.store.log.WithError(err).WithField("path", c.name).Warn("could not take over a lock found without a record")
	}
	return err == nil
}

// Acquire records a lock of the name for creator before its file is made. The caller
// makes the file next and calls Made, or Release if it cannot. It returns ErrExists,
// ErrReserved, ErrTooMany or ErrNoSpace. The Descriptor stands for the open file of KindCreate and is nil for
// any other kind.
func (c NameLock) Acquire(kind verdict.Kind, creator bootid.Process) (*Descriptor, error) {
	if err := c.store.admitTaker(c.name, creator); err != nil {
		return nil, err
	}
	l := Lock{Name: c.name, Kind: kind, Made: c.store.now(), Creator: creator, Holder: creator, Rule: verdict.RuleCreator}
	if !creator.Known() {
		l.Rule = verdict.RuleNobody
	} else if kind.ByCommand() {
		l.Ancestors = c.store.processes.ancestors(creator)
	}
	r, err := c.acquire(l)
	if err != nil {
		return nil, err
	}
	c.store.taken(c.name)
	if kind != verdict.KindCreate {
		return nil, nil
	}
	c.store.mu.Lock()
	r.open = true
	c.store.mu.Unlock()
	return &Descriptor{r}, nil
}

func (c NameLock) acquire(l Lock) (*record, error) {
	s := c.store
	l.Generation = s.generation.Add(1)
	l.BootID, l.MachineID, l.Namespace = s.here.BootID, s.here.MachineID, s.here.Namespace
	r := &record{kept: keep(l, s.began, s.here, nil, nil)}
	s.attach(r, &l.Creator, &l.Holder)
	c.forget()
	s.mu.Lock()
	var err error
	user := l.Creator.UID
	switch {
	case s.locks[c.name] != nil:
		err = ErrExists
	case s.maxPerUser > 0 && s.byUser[user] >= s.maxPerUser && user != 0 && user != s.user:
		err = ErrTooMany
	default:
		err = s.journal.put(l, true)
	}
	if err == nil {
		s.locks[c.name] = r
		s.byUser[user]++
		s.events.publish(Event{Transition: Acquired, Lock: l, Time: s.now()})
	}
	s.mu.Unlock()
	if err != nil {
		s.detach(r)
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	s.syncSoon(&s.acquired, acquireDelay)
	s.compactIfDue()
	return r, nil
}

// Made tells that the file of a lock that has its content from the beginning is there: a
// link of any kind, or one renamed to the name. What is data is no lock.
func (c NameLock) Made() {
	if r := c.record(); r != nil {
		c.store.identify(r)
	}
}

// Release ends the lock of the name, if there is one, after its file was removed or
// renamed away, or could not be made.
func (c NameLock) Release() {
	if r := c.record(); r != nil {
		c.store.drop(r, Released)
	}
	c.freed()
}

// Move gives the lock of c the name of to, after its file was renamed so. If to has a live
// lock already that one stays and the lock of c ends: ownership belongs to the name.
func (c NameLock) Move(to NameLock) {
	s := c.store
	r := c.record()
	defer c.freed()
	if r == nil {
		return
	}
	if before := to.record(); before != nil {
		if s.judge(before).Verdict == verdict.Live {
			s.drop(r, Released)
			return
		}
		s.drop(before, Released)
	}
	to.forget()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locks, c.name)
	s.rename(r, to.name)
}

// Replaced tells that a process has renamed another file onto the name; who returns the process. A live lock
// stays with its holder, whose family did it. Otherwise the process takes the name anew, if its file says so.
func (c NameLock) Replaced(who func() bootid.Process) {
	s := c.store
	if r := c.record(); r != nil {
		if c.readNow(r); c.record() == r && s.judge(r).Verdict == verdict.Live {
			return
		}
		s.drop(r, Released)
	}
	file, err := s.files.Stat(c.name)
	if err != nil {
		return
	}
	if _, err := c.Acquire(verdict.KindRename, who()); err == nil {
		c.Made()
	} else if found, err := s.read(c.name, file, s.nobodys()); err == nil {
		c.remember(found)
	}
}

// Attempt is what somebody wants to do to the file at a name; the text is for the log.
type Attempt struct {
	what string
	// bytes: only the content is concerned, which is free in what may be a pid file.
	bytes bool
}

// The attempts that are the matter of a lock's holder.
var (
	Removing   = Attempt{"remove", false}
	Renaming   = Attempt{"rename", false}
	Replacing  = Attempt{"replace", false}
	Entering   = Attempt{"change the directory", false} // or what lies in it
	Writing    = Attempt{"write", true}
	Truncating = Attempt{"truncate", true}
)

// Admit says whether the process that who returns may change or remove the file at
// the name: ErrHeld if it is a live lock of another family.
func (c NameLock) Admit(who func() bootid.Process, attempt Attempt) error {
	s := c.store
	r := c.record()
	if mutated("unguarded") {
		return nil
	}
	if r == nil || attempt.bytes && (r.Kind() == verdict.KindPIDFile || r.Kind() == verdict.KindFound) {
		return nil
	}
	caller := who()
	if caller.Known() && caller.Same(*r.Creator) {
		return nil
	}
	if c.readNow(r); c.record() != r {
		return nil // it turned out to be none
	}
	d := s.judge(r)
	if d.Verdict != verdict.Live {
		if d.Verdict == verdict.Settled {
			c.settle(r, d)
		}
		return nil
	}
	s.pass(r, d.Holder, d.Rule)
	l := s.state(r).Lock
	if related(s.sys, caller, l.Holder) || related(s.sys, caller, l.Creator) {
		return nil
	}
	// Word that the descriptor of a data file is closed may still be on its way.
	if l := s.state(r); l.Kind == verdict.KindCreate && d.Rule == verdict.RuleCreator {
		found, err := s.inspectOwn(&l)
		if err == nil && found.claim.Class == payload.Data && found.hidden == nil && !s.sys.HasOpen(l.Creator, "/"+l.Name) {
			s.settleFile(r, "it holds data, and its creator has closed it")
			return nil
		}
	}
	if !s.state(r).open && s.sys.Doomed(d.Holder) {
		return nil // kill PID; rm FILE: it robs nobody, and nobody has the descriptor
	}
	s.log.WithFields(fields(l)).WithFields(logrus.Fields{"caller": caller.String(), "attempt": attempt.what}).
		Warn("refused: the lock is held")
	s.events.publish(Event{Transition: Refused, Lock: l, By: caller, Time: s.now()})
	return fmt.Errorf("%s: %w by %v", c.name, ErrHeld, l.Holder)
}

// Stranger says that there is a live exclusive lock of the name and that the process that
// who returns is not of its holder's family, as far as that was known a moment ago.
func (c NameLock) Stranger(who func() bootid.Process) bool {
	s := c.store
	r := c.record()
	if r == nil || r.Kind() == verdict.KindPIDFile {
		return false
	}
	caller := who()
	if caller.Known() && caller.Same(*r.Creator) {
		return false
	}
	if c.readNow(r); c.record() != r {
		return false // it turned out to be no lock
	}
	// The holder is the one judged now: an ancestor may not be recorded yet.
	d := s.judge(r)
	if d.Verdict != verdict.Live {
		return false
	}
	return !s.relatedLately(caller, d.Holder) && !s.relatedLately(caller, *r.Creator)
}

// Contend tells of a Stranger who looked the name up.
func (c NameLock) Contend(who func() bootid.Process) {
	if s := c.store; s.Followed() {
		if r := c.record(); r != nil {
			s.events.publish(Event{Transition: Contended, Lock: s.state(r).Lock, By: who(), Time: s.now()})
		}
	}
}

// drop takes r out of the store. A journal that cannot be written does not keep it: its
// file is gone or no lock, and would be found so after a restart.
func (s *Store) drop(r *record, transition Transition) { s.dropFor(r, transition, verdict.Judgment{}) }

// dropFor does so for a stale one.
func (s *Store) dropFor(r *record, transition Transition, j verdict.Judgment) {
	s.mu.Lock()
	dropped := !r.gone
	if dropped {
		if err := s.journal.delete(r.Name, r.Generation, len(r.ancestors())); err != nil {
			s.log.WithError(err).WithField("path", r.Name).Error("the end of a lock could not be journaled")
		}
		delete(s.locks, r.Name)
		if s.byUser[r.Creator.UID]--; s.byUser[r.Creator.UID] == 0 {
			delete(s.byUser, r.Creator.UID)
		}
		r.gone = true
	}
	if transition == Reaped {
		if len(s.recent) == maxRecent {
			s.recent = s.recent[1:]
		}
		s.recent = append(s.recent, Reaping{r.lock(s.began), j, s.now()})
	}
	if dropped || transition == Reaped {
		s.events.publish(Event{Transition: transition, Lock: r.lock(s.began), Reason: j.Reason, Time: s.now()})
	}
	s.mu.Unlock()
	s.detach(r)
	if dropped && transition == Dropped && r.Kind() == verdict.KindCreate {
		s.syncSoon(&s.dropped, dropDelay)
	}
	s.compactIfDue()
}

// pass makes holder the holder of r, if it is not already.
func (s *Store) pass(r *record, holder bootid.Process, rule verdict.Rule) {
	s.mu.Lock()
	same := r.gone || r.Rule() == rule && (!holder.Known() || holder.Same(*r.Holder))
	s.mu.Unlock()
	if same {
		return
	}
	w, shared := r.holder, r.Holder
	if holder.Known() && !holder.Same(*r.Holder) {
		w, shared = s.processes.attachShared(&holder, r)
	}
	s.mu.Lock()
	before := r.holder
	passed := !shared.Same(*r.Holder)
	r.Holder, r.rule, r.holder = shared, numberOf(verdict.Rules[:], rule), w
	l := r.lock(s.began)
	r.left = r.left && !passed
	l.Left = r.left
	if passed || rule == verdict.RuleNamed {
		if err := s.journal.put(l, false); err != nil {
			s.log.WithError(err).WithFields(fields(l)).Error("the new holder of a lock could not be journaled")
		}
	}
	if passed {
		s.events.publish(Event{Transition: Passed, Lock: l, Time: s.now()})
	}
	s.mu.Unlock()
	if before != w && before != r.creator && !r.hasAncestor(before) {
		s.processes.detach(before, r)
	}
	if passed {
		s.log.WithFields(fields(l)).WithField("rule", rule).Debug("a lock has another holder")
	}
}

// Generation is that of the lock of the name, 0 if there is none.
func (c NameLock) Generation() uint64 {
	if r := c.record(); r != nil {
		return r.Generation
	}
	return 0
}

// Descriptor stands for the open file of the lock of the name, which was acquired and whose file
// is being opened anew; nil if there is none.
func (c NameLock) Descriptor() *Descriptor {
	r := c.record()
	if r == nil {
		return nil
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	r.open = true
	return &Descriptor{r}
}

// Guarded says that there is a lock of the name whose bytes are its holder's too.
func (c NameLock) Guarded() bool {
	r := c.record()
	return r != nil && r.Kind() != verdict.KindPIDFile && r.Kind() != verdict.KindFound
}
