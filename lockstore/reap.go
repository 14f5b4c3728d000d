package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// processEnded looks again at every lock that depended on a process that has ended.
func (s *Store) processEnded(w *watched) {
	for _, r := range s.processes.recordsOf(w) {
		if s.processes.isClosed() {
			return // whoever opens the journal next finds the rest
		}
		s.reap(r)
	}
}

// reap judges r and reclaims it if it is stale.
func (s *Store) reap(r *record) {
	_ = s.end(r, Reaped, s.judge) // what cannot be removed was logged
}

// end reclaims r if decide says that it is stale. It returns an error if that failed.
func (s *Store) end(r *record, transition Transition, decide func(*record) verdict.Decision) error {
	nameLock, ok := s.enterRecord(r)
	if !ok {
		return nil
	}
	defer nameLock.Leave()
	nameLock.readNow(r)
	d := decide(r)
	switch {
	case d.Verdict != verdict.Stale:
		nameLock.settle(r, d)
		s.lookSoon(nameLock.name)
	case transition == Reaped && !nameLock.removable(r):
	default:
		return nameLock.reclaim(r, d.Judgment, transition)
	}
	return nil
}

// enterRecord enters the name lock of the name that r has now; false if it is gone.
func (s *Store) enterRecord(r *record) (NameLock, bool) {
	for {
		s.mu.Lock()
		name, gone := r.Name, r.gone
		s.mu.Unlock()
		if gone {
			return NameLock{}, false
		}
		nameLock := s.Enter(name)
		if nameLock.record() == r {
			return nameLock, true
		}
		nameLock.Leave()
	}
}

// Ending says whether the creator of a lock is ending or has ended. It is asked before Closed.
func (s *Store) Ending(d *Descriptor) bool {
	creator := *d.record.Creator
	return creator.Known() && s.sys.Exiting(creator)
}

// Closed tells that the last descriptor of the open file description a lock was made
// with is closed. ByEnd says that the creator was ending then.
func (s *Store) Closed(d *Descriptor, byEnd bool) {
	r := d.record
	s.mu.Lock()
	if r.open {
		r.open, r.closedAfter, r.closedByEnd = false, s.now().Sub(s.began), byEnd
		if r.closed != nil {
			close(r.closed)
		}
	}
	name, kind := r.Name, r.Kind()
	s.mu.Unlock()
	if kind == verdict.KindCreate && s.attributesOf(name).Close {
		_ = s.end(r, Released, func(*record) verdict.Decision {
			return verdict.Released(verdict.RuleDescriptor, *r.Holder, "the descriptor it was made with is closed")
		})
		return
	}
	if byEnd {
		s.written(r) // who waits for the lock waits for this
		return
	}
	s.readSoon(r)
}

// Written tells that somebody who may have written the file at name, or in the directory
// there, has closed it. Seen is that of the file.
func (s *Store) Written(name string, seen *CachedJudgment) {
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	switch {
	case r != nil && r.Kind() == verdict.KindPIDFile:
		s.rewritten(r, seen)
	case r != nil:
		s.written(r)
	default:
		nameLock := s.Enter(name)
		defer nameLock.Leave()
		if file, err := s.files.Stat(name); err == nil {
			nameLock.Look(&file, seen)
		}
	}
}

// written reads the payload, which may name another holder or turn out to be data.
func (s *Store) written(r *record) {
	if nameLock, ok := s.enterRecord(r); ok {
		s.identify(r)
		nameLock.Leave()
		s.reap(r)
	}
}

// identify does so within the name lock.
func (s *Store) identify(r *record) {
	l := s.state(r)
	c, err := s.inspectOwn(&l)
	if err != nil {
		return
	}
	switch {
	case c.named.Known():
		s.pass(r, c.named, verdict.RuleNamed)
	case l.Kind == verdict.KindFound || l.open || l.closedByEnd || c.hidden != nil:
		// Judged as a whole, when that is over.
	case c.claim.Class == payload.Data, c.claim.Class == payload.Empty && l.Kind == verdict.KindRename && !s.attributesOf(l.Name).Opaque:
		s.settleFile(r, fmt.Sprintf("it is %v, and names nobody of its creator's family", c.claim.Class))
	}
}

// settleFile ends a lock that turned out to be none; its file stays. That is remembered. The evidence is for
// the log. It is called within the name lock.
func (s *Store) settleFile(r *record, evidence string) {
	c := NameLock{store: s, name: r.Name}
	s.log.WithFields(fields(s.state(r).Lock)).WithField("evidence", evidence).Debug("a file turned out to be no lock")
	s.drop(r, Dropped)
	if found, err := s.inspect(c.name, s.nobodys()); err == nil {
		c.remember(found)
	}
}

// Writing tells that a process opens the file of the name, or one in the directory there, for writing. If it is
// of the family of the lock's maker, its text may name its own relatives too.
func (s *Store) Writing(name string, w *Writer) {
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	if r == nil || r.creator == nil || !w.Known() {
		return
	}
	l := s.state(r)
	if family := s.familyOf(&l); w.Same(l.Creator) || w.Same(l.Holder) || family.isRelated(w.Process) {
		relatives := []bootid.Process{w.Process}
		for _, pid := range append(w.children, w.parent) {
			if p, err := s.sys.Process(pid); err == nil && !p.Manager {
				relatives = append(relatives, p)
			}
		}
		s.processes.addRelatives(r.creator, relatives...)
	}
	if l.Kind == verdict.KindMkdir && w.Same(l.Creator) && !l.Furnished {
		s.change(r, "that its creator has put something into a lock directory", func() { r.furnished = true })
	}
}

// Wrote tells that text was written to the file a lock was made with, by the process that who returns, which
// waits meanwhile. If it has the number of that process, which has the descriptor, or of a relative of the
// lock's maker, that is remembered: when the text is read, the maker may have ended, and then nothing tells
// whose relative that was.
func (s *Store) Wrote(d *Descriptor, text []byte, who func() bootid.Process) {
	maker := d.record.creator
	if maker == nil {
		return
	}
	numbers := payload.Numbers(text, maker.process.NSPID)
	if len(numbers) == 0 {
		return
	}
	if heir := who(); heir.Known() && slices.Contains(numbers, heir.NSPID) {
		s.processes.addRelatives(maker, heir)
	}
	family := &family{store: s, writer: maker.process}
	for _, pid := range numbers {
		if p, err := s.sys.InNamespace(pid, maker.process); err == nil && family.isRelated(p) {
			s.processes.addRelatives(maker, p)
		}
	}
}

// rewritten takes a pid file over for the one who wrote it last, if that names itself.
func (s *Store) rewritten(r *record, seen *CachedJudgment) {
	nameLock, ok := s.enterRecord(r)
	if !ok {
		return
	}
	if writer := seen.Writer(); writer != nil && writer.MayRemove && !writer.Same(*r.Creator) {
		found, err := s.inspect(nameLock.name, s.familyOfWriter(writer))
		if err == nil && found.named.Known() && !found.named.Same(*r.Holder) {
			s.drop(r, Released)
			nameLock.adoptPIDFile(writer, found)
			nameLock.Leave()
			return
		}
	}
	nameLock.Leave()
	s.reap(r)
}

// reclaim removes a stale or released lock and its file; what the file holds is kept
// first. It returns an error if all stays as it was.
func (c NameLock) reclaim(r *record, j verdict.Judgment, transition Transition) error {
	s := c.store
	log := s.log.WithFields(fields(r.lock(s.began))).WithFields(logrus.Fields{"reason": j.Reason, "rule": j.Rule, "evidence": j.Evidence})
	c.freeing()
	err := s.takeAway(c.name, r.Generation, j.Reason)
	if errors.Is(err, errTooLarge) {
		log.WithError(err).Warn("a stale lock stays as an ordinary file, see latchfs reclaimed: it holds more than is kept")
		s.settleFile(r, "it is stale, and holds more than is kept")
		return err
	} else if err != nil {
		log.WithError(err).Error("a stale lock could not be removed")
		return err
	}
	if transition == Reaped {
		log.Info("reclaimed a stale lock")
	}
	s.dropFor(r, transition, j)
	c.freed()
	return nil
}

// takeAway removes the file at a lock name, keeping what it holds.
func (s *Store) takeAway(name string, generation uint64, reason verdict.Reason) error {
	file, err := s.files.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case file.Type == Regular && file.Size == 0:
		return s.files.Remove(name)
	case file.Type == Directory:
		if entries, err := s.files.Entries(name, 0); err == nil && len(entries) == 0 {
			return s.files.Remove(name)
		}
	}
	as := Reclaimed{Generation: generation, Reason: reason, Name: name, Time: s.now(), UID: file.UID}
	err = s.reclaimed.take(s.files, name, file, as)
	if errors.Is(err, errTooLarge) {
		return errors.Join(err, s.reclaimed.note(as, file.Size))
	}
	return err
}
