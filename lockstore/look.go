package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// restoredAge is how long before a lock was made the time of its file has to be for the file to be a copy.
const restoredAge = time.Minute

// releaseGrace is how long a look at a lock whose creator has just ended waits for word that its descriptor is
// closed. The kernel sends that word before it reports the death, but the word may still be on its way through
// another thread.
const releaseGrace = 5 * time.Millisecond

// Look decides whether the file at the name may be seen; a nil file means that there is none. A stale lock is
// reaped first.
func (c NameLock) Look(file *File, seen *CachedJudgment) (visible bool) {
	r := c.record()
	switch {
	case file == nil:
		if r != nil {
			c.store.release(r)
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

// lookRecorded judges the recorded lock, carries the decision out, and reports whether the file is still there.
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
	return c.carryOut(r, d)
}

// carryOut does what follows from a decision on r, and reports whether the file is still there. A live lock passes
// to its holder; an unknown one stays as it is.
func (c NameLock) carryOut(r *record, d verdict.Decision) bool {
	s := c.store
	if d.Left && (d.Verdict == verdict.Live || d.Verdict == verdict.Unknown) {
		s.left(r)
	}
	switch d.Verdict {
	case verdict.Live:
		s.pass(r, d.Holder, d.Rule)
	case verdict.Settled:
		s.settle(r, d.Evidence)
	case verdict.Stale:
		return !c.removable(r) || c.remove(r, d.Judgment, Reaped) != nil
	}
	return true
}

// removable reports whether the file of a stale lock may be removed. Programs that flock(2) a pid file exclude each
// other only as long as it is one file, so it stays while anybody has it open.
func (c NameLock) removable(r *record) bool {
	return r.Kind() != verdict.KindPIDFile && r.Kind() != verdict.KindFound || !c.store.files.Opened(c.name)
}

// awaitClose waits a moment for the descriptor r was made with to be closed, if its creator has just ended, and
// reports whether it is closed.
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
		if l.Generation, err = s.authority.Next(s.ctx); err != nil {
			s.log.WithError(err).WithField("path", c.name).Error("a stale lock could not be removed")
			return true
		}
		found := authority.Record{
			Name: c.name, Kind: l.Kind, Generation: l.Generation, Made: l.Made, Origin: &authority.Origin{},
			Creator: &nobody, Holder: &l.Holder, Rule: l.Rule,
		}
		return c.carryOut(&record{kept: keep(found, s.began), gone: true}, d)
	}
	return true
}

// adoptPIDFile records an ordinary file as a lock if its payload names its writer or one of the writer's family,
// and the writer may remove the file. It reports whether it did.
func (c NameLock) adoptPIDFile(writer *Writer, found content) bool {
	if found.Type != Regular || !found.named.Known() || !writer.MayRemove {
		return false
	}
	c.forget()
	return c.adopt(Lock{
		Kind: verdict.KindPIDFile, Made: found.written, Creator: writer.Process, Holder: found.named,
		Rule: verdict.RuleNamed,
	})
}

// adopt records a lock whose file is there, and reports whether it did. It does not if the journal has no space, or
// the user no more locks: the file would be judged the same again.
func (c NameLock) adopt(l Lock) bool {
	_, err := c.acquire(l)
	if err != nil && !errors.Is(err, ErrNoSpace) && !errors.Is(err, ErrTooMany) {
		c.store.log.WithError(err).WithField("path", c.name).Warn("could not take over a lock found without a record")
	}
	return err == nil
}

// TimeSet handles that a process has set the time of the file of the name; identify returns that process. If it is of the
// family of the lock's maker, and the time is well before the lock was made, the file was restored from a copy: it
// is no lock.
func (c NameLock) TimeSet(identify func() bootid.Process, at time.Time) {
	s := c.store
	r := c.record()
	if r == nil || r.Kind() == verdict.KindFound {
		return
	}
	l := s.state(r)
	caller := identify()
	if at.Before(l.Made.Add(-restoredAge)) &&
		(related(s.sys, caller, l.Creator) || related(s.sys, caller, l.Holder)) {
		s.settle(r, fmt.Sprintf("its time was set to %v, before it was made: it is a copy", at.Format(time.RFC3339)))
	}
}
