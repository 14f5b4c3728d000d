package lockstore

import (
	"errors"
	"io/fs"

	"github.com/sirupsen/logrus"

	"latchfs/lockstore/verdict"
)

// processEnded looks again at every lock that depended on a process that has ended.
func (s *Store) processEnded(w *watched) {
	for _, r := range s.processes.recordsOf(w) {
		if s.processes.isClosed() {
			return // the next latchfs finds the rest
		}
		s.reap(r)
	}
}

// reap judges r and reaps it if it is stale.
func (s *Store) reap(r *record) {
	_ = s.removeIf(r, Reaped, s.judge) // an error was logged
}

// removeIf ends r by a transition and removes its file if decide says that it is stale, or does what else follows
// from the decision. It returns an error if the file could not be removed.
func (s *Store) removeIf(r *record, by Transition, decide func(*record) verdict.Decision) error {
	nameLock, ok := s.enterRecord(r)
	if !ok {
		return nil
	}
	defer nameLock.Leave()
	nameLock.readNow(r)
	d := decide(r)
	switch {
	case d.Verdict != verdict.Stale:
		nameLock.carryOut(r, d)
		s.lookSoon(nameLock.name)
	case by == Reaped && !nameLock.removable(r):
	default:
		return nameLock.remove(r, d.Judgment, by)
	}
	return nil
}

// enterRecord enters the name lock of the name that r has now. It reports false if r is gone.
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

// remove ends a lock by a transition and removes its file, whose content is kept first. It returns an error if the
// file is still there.
func (c NameLock) remove(r *record, j verdict.Judgment, by Transition) error {
	s := c.store
	log := s.log.WithFields(fields(r.lock(s.began))).
		WithFields(logrus.Fields{"reason": j.Reason, "rule": j.Rule, "evidence": j.Evidence})
	c.freeing()
	err := s.removeFile(c.name, r.Generation, j.Reason)
	if errors.Is(err, errTooLarge) {
		log.WithError(err).
			Warn("a stale lock stays as an ordinary file, see latchfs reclaimed: it holds more than is kept")
		s.settle(r, "it is stale, and holds more than is kept")
		return err
	} else if err != nil {
		log.WithError(err).Error("a stale lock could not be removed")
		return err
	}
	if by == Reaped {
		log.Info("reclaimed a stale lock")
	}
	s.end(r, by, j)
	c.freed()
	return nil
}

// removeFile removes the file at a lock name and keeps its content.
func (s *Store) removeFile(name string, generation uint64, reason verdict.Reason) error {
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
