package lockstore

import (
	"maps"
	"strings"

	"latchfs/lockstore/payload"
)

// maxSettledPerUser is how many files of one owner are remembered to be no locks. Of those beyond,
// the text alone decides after a restart.
const maxSettledPerUser = 4096

// settledFile is a file that was found to be no lock by what latchfs saw, though its text alone would
// say otherwise to a latchfs that did not see it made: a copy of another process's lock, a number that
// is no pid. It is no lock for as long as it is the same file with the same bytes.
type settledFile struct {
	identity string // of Files.Identity
	sum      sum    // of its bytes
	uid      uint32 // its owner when it settled
}

// sum is a checksum of what lies at a lock name.
type sum [16]byte

// size is about what the file takes in the journal, in bytes.
func (f settledFile) size(name string) int64 {
	return int64(frameHeader + 16 + len(name) + len(f.identity) + len(f.sum))
}

// remember keeps in mind that the file of the name, with that content, is no lock, if its text alone
// would say otherwise. Beyond maxSettledPerUser files of one user, the file is not remembered.
func (c NameLock) remember(found content) {
	s := c.store
	if found.form.Class != payload.Naming {
		c.forget()
		return
	}
	identity, err := s.files.Identity(c.name)
	if err != nil {
		return // it has gone
	}
	file := settledFile{identity, found.sum, found.UID}
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, known := s.settled[c.name]; known && before == file {
		return
	}
	s.forget(c.name)
	if s.settledByUser[file.uid] >= maxSettledPerUser {
		s.log.WithField("path", c.name).WithField("uid", file.uid).
			Debug("too many files of this user look like locks and are none: after a restart this one is judged by its text")
		return
	}
	s.addSettled(c.name, file)
}

// addSettled remembers a file at a name of which nothing is remembered; mu is held.
func (s *Store) addSettled(name string, file settledFile) {
	if err := s.journal.settle(name, file); err != nil {
		s.log.WithError(err).WithField("path", name).Warn("could not journal that a file is no lock; after a restart its text decides")
	}
	s.settled[name] = file
	s.settledByUser[file.uid]++
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
	if err == nil && identity == file.identity && found.sum == file.sum {
		return true
	}
	c.forget()
	return false
}

// forget tells that the file of the name is another one, or is not there.
func (c NameLock) forget() {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.store.forget(c.name)
}

// forget drops what is remembered of the file of a name; mu is held.
func (s *Store) forget(name string) {
	file, known := s.settled[name]
	if !known {
		return
	}
	delete(s.settled, name)
	if s.settledByUser[file.uid]--; s.settledByUser[file.uid] == 0 {
		delete(s.settledByUser, file.uid)
	}
	if err := s.journal.unsettle(name, file); err != nil {
		s.log.WithError(err).WithField("path", name).Debug("could not journal that a file is not remembered any more")
	}
}

// moveSettled carries what is remembered beneath a directory along with it; mu is held.
func (s *Store) moveSettled(rename func(name string) (string, bool)) {
	moved := make(map[string]settledFile)
	for name, file := range s.settled {
		if to, ok := rename(name); ok {
			moved[to] = file
			s.forget(name)
		}
	}
	for name, file := range moved {
		s.addSettled(name, file)
	}
}

// recoverSettled takes over what a journal says.
func (s *Store) recoverSettled(files map[string]settledFile) {
	s.settled = maps.Clone(files)
	for _, file := range files {
		s.settledByUser[file.uid]++
	}
}

// renamer returns how names beneath a directory change when it is renamed, and with exchange those
// beneath the new name the other way.
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
