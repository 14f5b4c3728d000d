package lockstore

import (
	"errors"
	"io/fs"

	"github.com/sirupsen/logrus"
)

// processEnded looks again at every lock that depended on a process that has ended.
func (s *Store) processEnded(w *watched) {
	for _, r := range s.processes.recordsOf(w) {
		s.reap(r)
	}
}

// reap judges r and reclaims it if it is stale. From the death on every look at the
// name reclaims it; the kernel's cache is told before the file goes, so that no look
// can be answered from there after the name counts as free.
func (s *Store) reap(r *record) {
	section, ok := s.enterRecord(r)
	if !ok {
		return
	}
	d := s.judge(r)
	if d.Verdict != Stale {
		section.settle(r, d)
		section.Leave()
		return
	}
	section.Leave()
	s.files.Invalidate(section.name)
	if section, ok = s.enterRecord(r); ok {
		section.settle(r, s.judge(r))
		section.Leave()
	}
}

// enterRecord enters the section of the name that r has now; false if it is gone.
func (s *Store) enterRecord(r *record) (Section, bool) {
	for {
		s.mu.Lock()
		name, gone := r.Name, r.gone
		s.mu.Unlock()
		if gone {
			return Section{}, false
		}
		section := s.Enter(name)
		if section.record() == r {
			return section, true
		}
		section.Leave()
	}
}

// Closed tells that the last descriptor of the open file description a lock was made
// with is closed.
func (s *Store) Closed(d *Descriptor) {
	s.mu.Lock()
	r := d.record
	if r.open {
		r.open, r.closedAt = false, s.now()
		close(r.closed)
	}
	s.mu.Unlock()
	s.written(r)
}

// Written tells that somebody who may have written the file at name has closed it.
func (s *Store) Written(name string) {
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	if r != nil {
		s.written(r)
	}
}

// written reads the payload, which may name another holder or turn out to be data.
func (s *Store) written(r *record) {
	section, ok := s.enterRecord(r)
	if !ok {
		return
	}
	s.mu.Lock()
	l, open := r.Lock, r.open
	s.mu.Unlock()
	file, payload, err := s.inspect(l.Name)
	if err == nil && payload.Class == Data && !open {
		s.drop(r, Dropped, "")
	} else if err == nil {
		if named, ok := s.named(l.Creator, payload, file.Written); ok {
			s.pass(r, named, RuleNamed)
		}
	}
	section.Leave()
	s.reap(r)
}

// reclaim removes a stale lock and its file; what the file holds is kept first. It
// returns an error if all stays as it was.
func (c Section) reclaim(r *record, j Judgment) error {
	s := c.store
	log := s.log.WithFields(fields(r.Lock)).WithFields(logrus.Fields{"reason": j.Reason, "evidence": j.Evidence})
	file, err := s.files.Stat(c.name)
	if errors.Is(err, fs.ErrNotExist) {
		s.drop(r, Reaped, j.Reason)
		return nil
	}
	if err == nil {
		err = c.keep(r, file)
	}
	if errors.Is(err, errIsData) {
		s.drop(r, Dropped, "")
		return err
	}
	if err == nil {
		err = s.files.Remove(c.name)
	}
	if err != nil {
		log.WithError(err).Error("a stale lock could not be removed")
		return err
	}
	log.Info("reclaimed a stale lock")
	s.drop(r, Reaped, j.Reason)
	return nil
}

var errIsData = errors.New("it holds data")

// keep saves what is to be removed.
func (c Section) keep(r *record, file File) error {
	if !file.Regular || file.Size > maxPayload {
		return errIsData
	}
	text, err := c.store.files.Read(c.name, maxPayloadRead)
	if err != nil {
		return err
	}
	if ParsePayload(text).Class == Data {
		return errIsData
	}
	if len(text) == 0 {
		return nil
	}
	return c.store.reclaimed.keep(r.Generation, c.name, text)
}
