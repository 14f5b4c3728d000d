package lockstore

import (
	"errors"
	"fmt"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

func (c NameLock) record() *record {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.store.locks[c.name]
}

// Held reports whether there is a lock of the name, whatever its verdict.
func (c NameLock) Held() bool { return c.record() != nil }

// Generation returns the generation of the lock of the name, 0 if there is none.
func (c NameLock) Generation() uint64 {
	if r := c.record(); r != nil {
		return r.Generation
	}
	return 0
}

// Descriptor returns the descriptor for the lock of the name, whose file the caller opens again after Acquire; nil
// if there is no lock.
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

// Acquire records a lock of the name for creator before its file is made. The caller then makes the file and calls
// Made, or Release if it cannot. Acquire returns ErrExists, ErrReserved, ErrTooMany or ErrNoSpace. The Descriptor
// stands for the open file of a lock of KindCreate and is nil for any other kind.
func (c NameLock) Acquire(kind verdict.Kind, creator bootid.Process) (*Descriptor, error) {
	if err := c.store.admitTaker(c.name, creator); err != nil {
		return nil, err
	}
	l := Lock{Kind: kind, Made: c.store.now(), Creator: creator, Holder: creator, Rule: verdict.RuleCreator}
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

// acquire records a lock with the authority, then in the map.
func (c NameLock) acquire(l Lock) (*record, error) {
	s := c.store
	r := &record{kept: keep(authority.Record{
		Name: c.name, Kind: l.Kind, Made: l.Made, Origin: s.here, Ancestors: l.Ancestors, Rule: l.Rule,
	}, s.began)}
	s.attach(r, &l.Creator, &l.Holder)
	c.forget()
	s.changes.RLock()
	err := s.admitUser(c.name, l.Creator.UID)
	if err == nil {
		err = s.recordNew(r)
	}
	s.changes.RUnlock()
	if err != nil {
		s.detach(r)
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	s.syncSoon(&s.acquiredSync, acquiredDelay)
	s.compactIfDue()
	return r, nil
}

// admitUser counts one more lock for a user, or returns ErrExists or ErrTooMany.
func (s *Store) admitUser(name string, user uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.locks[name] != nil:
		return ErrExists
	case s.maxPerUser > 0 && s.byUser[user] >= s.maxPerUser && user != 0 && user != s.user:
		return ErrTooMany
	}
	s.byUser[user]++
	return nil
}

// recordNew has the authority record a lock, which admitUser has counted, and puts it into the map.
func (s *Store) recordNew(r *record) error {
	stored := r.stored(s.began)
	generation, err := s.authority.Acquire(s.ctx, stored)
	if errors.Is(err, authority.ErrUncertain) {
		stored.Generation = generation
		if err := s.authority.Release(s.ctx, stored); err != nil {
			s.log.WithError(err).WithField("path", r.Name).
				Error("a lock that was perhaps acquired could not be released")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.uncount(r.Creator.UID)
		return err
	}
	r.Generation = generation
	s.put(r)
	return nil
}

// Made has the payload read of a lock whose file has its content from the beginning: a link of any kind, or a file
// that was renamed to the name. If it is data, the file is no lock.
func (c NameLock) Made() {
	if r := c.record(); r != nil {
		c.store.identify(r)
	}
}

// Release ends the lock of the name, if there is one, after its file was removed or renamed away, or could not be
// made.
func (c NameLock) Release() {
	if r := c.record(); r != nil {
		c.store.release(r)
	}
	c.freed()
}

// Replaced handles that a process has renamed another file onto the name; identify returns that process. A live lock
// stays with its holder, of whose family the process is. Otherwise the process acquires the lock anew, if the file
// is one.
func (c NameLock) Replaced(identify func() bootid.Process) {
	s := c.store
	if r := c.record(); r != nil {
		if c.readNow(r); c.record() == r && s.judge(r).Verdict == verdict.Live {
			return
		}
		s.release(r)
	}
	file, err := s.files.Stat(c.name)
	if err != nil {
		return
	}
	if _, err := c.Acquire(verdict.KindRename, identify()); err == nil {
		c.Made()
	} else if found, err := s.read(c.name, file, s.nobodys()); err == nil {
		c.remember(found)
	}
}
