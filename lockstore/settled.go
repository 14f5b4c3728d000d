package lockstore

import (
	"latchfs/lockstore/authority"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// maxSettledPerUser is how many files of one owner are remembered to be no locks. After a restart, the text alone
// decides about files beyond that.
const maxSettledPerUser = 4096

// settle ends a lock that turned out to be none. Its file stays, and is remembered to be no lock. The evidence is
// for the log. It is called within the name lock.
func (s *Store) settle(r *record, evidence string) {
	c := NameLock{store: s, name: r.Name}
	s.log.WithFields(fields(s.state(r).Lock)).WithField("evidence", evidence).Debug("a file turned out to be no lock")
	s.end(r, Settled, verdict.Judgment{})
	if found, err := s.inspect(c.name, s.nobodys()); err == nil {
		c.remember(found)
	}
}

// remember remembers that the file of the name, with that content, is no lock, if its text alone would say
// otherwise. It does not remember more than maxSettledPerUser files of one user.
func (c NameLock) remember(found content) {
	s := c.store
	if found.form.Class != payload.Naming {
		c.forget()
		return
	}
	identity, err := s.files.Identity(c.name)
	if err != nil {
		return // the file is gone
	}
	file := authority.Settled{Identity: identity, Sum: found.sum, UID: found.UID}
	s.changes.RLock()
	defer s.changes.RUnlock()
	s.mu.Lock()
	before, known := s.settled[c.name]
	s.mu.Unlock()
	if known && before == file {
		return
	}
	s.forget(c.name)
	s.addSettled(c.name, file)
}

// addSettled remembers a file at a name of which nothing is remembered. Changes is held.
func (s *Store) addSettled(name string, file authority.Settled) {
	s.mu.Lock()
	full := s.settledByUser[file.UID] >= maxSettledPerUser
	if !full {
		s.settled[name] = file
		s.settledByUser[file.UID]++
	}
	s.mu.Unlock()
	log := s.log.WithField("path", name)
	if full {
		log.WithField("uid", file.UID).
			Debug("too many files of this user look like locks and are none: after a restart this one is judged by its text")
	} else if err := s.authority.Settle(s.ctx, name, file); err != nil {
		log.WithError(err).Warn("could not journal that a file is no lock; after a restart its text decides")
	}
}

// remembers reports whether the file of the name, with that content, was found to be no lock before.
func (c NameLock) remembers(found content) bool {
	c.store.mu.Lock()
	file, known := c.store.settled[c.name]
	c.store.mu.Unlock()
	if !known {
		return false
	}
	identity, err := c.store.files.Identity(c.name)
	if err == nil && identity == file.Identity && found.sum == file.Sum {
		return true
	}
	c.forget()
	return false
}

// forget forgets the file of the name, which is another one now or is gone.
func (c NameLock) forget() {
	s := c.store
	s.mu.Lock()
	_, known := s.settled[c.name]
	s.mu.Unlock()
	if known {
		s.changes.RLock()
		s.forget(c.name)
		s.changes.RUnlock()
	}
}

// forget forgets the file of a name. Changes is held.
func (s *Store) forget(name string) {
	s.mu.Lock()
	file, known := s.settled[name]
	if known {
		delete(s.settled, name)
		if s.settledByUser[file.UID]--; s.settledByUser[file.UID] == 0 {
			delete(s.settledByUser, file.UID)
		}
	}
	s.mu.Unlock()
	if !known {
		return
	}
	if err := s.authority.Unsettle(s.ctx, name, file); err != nil {
		s.log.WithError(err).WithField("path", name).Debug("could not journal that a file is not remembered any more")
	}
}

// moveSettled renames the remembered files beneath a renamed directory. Changes is held.
func (s *Store) moveSettled(renamed func(name string) (string, bool)) {
	type move struct {
		from, to string
		file     authority.Settled
	}
	var moves []move
	s.mu.Lock()
	for name, file := range s.settled {
		if to, ok := renamed(name); ok {
			moves = append(moves, move{name, to, file})
		}
	}
	s.mu.Unlock()
	for _, m := range moves {
		s.forget(m.from)
	}
	for _, m := range moves {
		s.addSettled(m.to, m.file)
	}
}
