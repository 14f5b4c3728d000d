package lockstore

import (
	"errors"
	"maps"
	"slices"
	"time"

	"latchfs/lockstore/journal"
)

// JournalReport is what a journal holds.
type JournalReport struct {
	journal.Report
	Locks []Lock // in the order of their names
}

// CheckJournal reads the journal of a state directory and changes nothing. It returns ErrNotSound, with the report,
// if a latchfs that opens the journal would cut its end off; ErrNewerFormat; or what the system says. While a
// latchfs writes the journal, its end may be half a record. CheckJournal calls progress, which may be nil, with how
// many bytes of all were read.
func CheckJournal(stateDir string, progress func(done, all int)) (r JournalReport, err error) {
	c := &recovered{began: time.Unix(0, 0)}
	if r.Report, err = journal.Check(stateDir, c, progress); err != nil && !errors.Is(err, ErrNotSound) {
		return r, err
	}
	for _, name := range slices.Sorted(maps.Keys(c.locks)) {
		r.Locks = append(r.Locks, c.locks[name].lock(c.began))
	}
	return r, err
}
