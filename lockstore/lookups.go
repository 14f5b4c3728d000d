package lockstore

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// lookup is what was found of a pid.
type lookup struct {
	process bootid.Process
	err     error
}

// newLookups remembers who has which pid, for files without a record.
func newLookups() *answers[int, lookup] {
	return &answers[int, lookup]{lifetime: 50 * time.Millisecond, most: 1024}
}

// processFor describes the process pid for a file without a record that was last written
// then. An answer of a moment ago is only good for a file that was written before it: who
// wrote that one was there then, or has ended.
func (s *Store) processFor(pid int, written time.Time) (bootid.Process, error) {
	found := s.lookups.get(pid, func(at time.Time) bool { return written.Before(at.Add(-verdict.StartTolerance)) }, func() lookup {
		p, err := s.sys.Process(pid)
		return lookup{p, err}
	})
	return found.process, found.err
}
