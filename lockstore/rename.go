package lockstore

import (
	"strings"

	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// Move gives the lock of c the name of to, after its file was renamed so. If to has a live lock, that one stays and
// the lock of c is released: ownership belongs to the name.
func (c NameLock) Move(to NameLock) {
	s := c.store
	r := c.record()
	defer c.freed()
	if r == nil {
		return
	}
	if before := to.record(); before != nil {
		if s.judge(before).Verdict == verdict.Live {
			s.release(r)
			return
		}
		s.release(before)
	}
	to.forget()
	s.changes.RLock()
	defer s.changes.RUnlock()
	s.mu.Lock()
	m := authority.Move{Record: r.stored(s.began), To: to.name}
	delete(s.locks, c.name)
	s.rename(r, to.name)
	s.mu.Unlock()
	s.notMoved(s.authority.Move(s.ctx, m), to.name)
}

// MoveTree renames a directory with do, which returns its old and new name, and gives the locks beneath it their
// new names; with exchange, also the locks beneath the new name. Nothing else happens to any lock meanwhile. At
// gives do the name lock of a name; do must not leave it.
func (s *Store) MoveTree(
	exchange bool, do func(at func(name string) NameLock) (oldDir, newDir string, err error),
) error {
	s.tree.Lock()
	defer s.tree.Unlock()
	oldDir, newDir, err := do(func(name string) NameLock { return NameLock{store: s, name: name} })
	if err != nil {
		return err
	}
	s.moveTree(exchange, oldDir, newDir)
	s.lookAtAll()
	return nil
}

// moveTree gives the locks beneath a renamed directory their new names; tree is held for writing.
func (s *Store) moveTree(exchange bool, oldDir, newDir string) {
	renamed := renamer(exchange, oldDir, newDir)
	s.changes.RLock()
	defer s.changes.RUnlock()
	s.moveSettled(renamed)
	s.mu.Lock()
	renames := make(map[*record]string)
	for name, r := range s.locks {
		if to, ok := renamed(name); ok {
			renames[r] = to
		}
	}
	moves := make([]authority.Move, 0, len(renames))
	for r, to := range renames {
		moves = append(moves, authority.Move{Record: r.stored(s.began), To: to})
		delete(s.locks, r.Name)
	}
	for r, name := range renames {
		s.rename(r, name)
	}
	s.mu.Unlock()
	if len(moves) > 0 {
		s.notMoved(s.authority.MoveTree(s.ctx, moves), newDir)
	}
}

// rename gives r another name; mu is held and the map does not have the old one.
func (s *Store) rename(r *record, name string) {
	r.Name = name
	s.locks[name] = r
	s.events.publish(Event{Transition: Moved, Lock: r.lock(s.began), Time: s.now()})
}

// notMoved logs an error of the authority about a renamed lock or directory.
func (s *Store) notMoved(err error, path string) {
	if err != nil {
		s.log.WithError(err).WithField("path", path).
			Error("a renamed lock could not be journaled; it will not survive a restart")
	}
}

// renamer returns how names beneath a directory change when it is renamed; with exchange, also names beneath the
// new one.
func renamer(exchange bool, oldDir, newDir string) func(name string) (string, bool) {
	return func(name string) (string, bool) {
		if rest, ok := strings.CutPrefix(name, oldDir+"/"); ok {
			return newDir + "/" + rest, true
		} else if rest, ok := strings.CutPrefix(name, newDir+"/"); ok && exchange {
			return oldDir + "/" + rest, true
		}
		return "", false
	}
}
