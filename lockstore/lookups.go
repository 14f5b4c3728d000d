package lockstore

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// lookup is the answer about a pid.
type lookup struct {
	process bootid.Process
	err     error
}

// newLookups returns a cache of which process has which pid, for files without a record.
func newLookups() *answers[int, lookup] {
	return &answers[int, lookup]{lifetime: 50 * time.Millisecond, most: 1024}
}

// processFor describes the process pid for a file without a record that was last written at a time. A cached answer
// is good only for a file that was written before: the process that wrote it existed then, or has ended.
func (s *Store) processFor(pid int, written time.Time) (bootid.Process, error) {
	goodEnough := func(at time.Time) bool { return written.Before(at.Add(-verdict.StartTolerance)) }
	found := s.lookups.get(pid, goodEnough, func() lookup {
		p, err := s.sys.Process(pid)
		return lookup{p, err}
	})
	return found.process, found.err
}
