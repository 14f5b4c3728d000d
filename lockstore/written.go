package lockstore

import (
	"fmt"
	"slices"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// Ending reports whether the creator of a lock is ending or has ended. The caller asks before it calls Closed.
func (s *Store) Ending(d *Descriptor) bool {
	creator := *d.record.Creator
	return creator.Known() && s.sys.Exiting(creator)
}

// Closed handles that the last descriptor of the open file description a lock was made with is closed. ByEnd
// reports that the creator was ending then.
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
		_ = s.removeIf(r, Released, func(*record) verdict.Decision {
			return verdict.Released(verdict.RuleDescriptor, *r.Holder, "the descriptor it was made with is closed")
		})
		return
	}
	if byEnd {
		s.written(r) // contenders wait for this
		return
	}
	s.readSoon(r)
}

// Written handles that a process which may have written the file at name, or a file in the directory there, has
// closed it. Seen is the cached judgment of the file at name.
func (s *Store) Written(name string, seen *CachedJudgment) {
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	switch {
	case r != nil && r.Kind() == verdict.KindPIDFile:
		if !s.rewritten(r, seen) {
			s.Written(name, seen) // its process ended, and the record is gone: the file is judged anew
		}
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

// written reads the payload of r, which may name another holder or turn out to be data, and reaps r if it is stale.
func (s *Store) written(r *record) {
	if nameLock, ok := s.enterRecord(r); ok {
		s.identify(r)
		nameLock.Leave()
		s.reap(r)
	}
}

// identify reads the payload of r within the name lock. R passes to the holder that the payload names, or is
// settled if the payload is data.
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
		// It is judged as a whole, once the descriptor is closed.
	case c.claim.Class == payload.Data,
		c.claim.Class == payload.Empty && l.Kind == verdict.KindRename && !s.attributesOf(l.Name).Opaque:
		s.settle(r, fmt.Sprintf("it is %v, and names nobody of its creator's family", c.claim.Class))
	}
}

// Writing handles that a process opens the file of the name, or a file in the directory there, for writing. If the
// process is of the family of the lock's maker, its text may name its own relatives too.
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
		// The caller may be in the name lock of a file in the directory, so it cannot enter this one.
		s.changes.Lock()
		s.change(r, "that its creator has put something into a lock directory", func() { r.furnished = true })
		s.changes.Unlock()
	}
}

// Wrote handles that a process writes text to the file a lock was made with, and waits meanwhile; identify returns the
// process. If the text has the number of that process, which has the descriptor, or of a relative of the lock's
// maker, Wrote remembers that the numbered process is a relative. When the text is read, the maker may have ended,
// and it cannot be found out any more whose relative the process was.
func (s *Store) Wrote(d *Descriptor, text []byte, identify func() bootid.Process) {
	maker := d.record.creator
	if maker == nil {
		return
	}
	numbers := payload.Numbers(text, maker.process.NSPID)
	if len(numbers) == 0 {
		return
	}
	if heir := identify(); heir.Known() && slices.Contains(numbers, heir.NSPID) {
		s.processes.addRelatives(maker, heir)
	}
	family := &family{store: s, writer: maker.process}
	for _, pid := range numbers {
		if p, err := s.sys.InNamespace(pid, maker.process); err == nil && family.isRelated(p) {
			s.processes.addRelatives(maker, p)
		}
	}
}

// rewritten gives the lock of a pid file to the process that wrote the file last, if the text names that process. It
// reports false if r is gone.
func (s *Store) rewritten(r *record, seen *CachedJudgment) bool {
	nameLock, ok := s.enterRecord(r)
	if !ok {
		return false
	}
	if writer := seen.Writer(); writer != nil && writer.MayRemove && !writer.Same(*r.Creator) {
		found, err := s.inspect(nameLock.name, s.familyOfWriter(writer))
		if err == nil && found.named.Known() && !found.named.Same(*r.Holder) {
			s.release(r)
			nameLock.adoptPIDFile(writer, found)
			nameLock.Leave()
			return true
		}
	}
	nameLock.Leave()
	s.reap(r)
	return true
}
