package lockstore

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ErrNotSound: a journal has bytes that are no whole records, or is none.
var ErrNotSound = errors.New("journal is not sound")

// JournalReport is what a journal holds.
type JournalReport struct {
	Path       string
	Size       int64  // bytes
	Sound      int64  // bytes of them that are whole records
	Generation uint64 // the highest that was given out
	Locks      []Lock // in the order of their names
}

// CheckJournal reads the journal of a state directory, changing nothing. It returns ErrNotSound, with the report, if
// a latchfs that opens it would cut its end off; ErrNewerFormat; or what the system says. A latchfs that writes
// it meanwhile may be in the middle of a record. Progress is told now and then how many bytes of all were read; it may
// be nil.
func CheckJournal(stateDir string, progress func(done, all int)) (JournalReport, error) {
	r := JournalReport{Path: filepath.Join(stateDir, journalName)}
	file, err := os.Open(r.Path)
	if err != nil {
		return r, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return r, err
	}
	journal, err := replayJournal(file, info.Size(), progress)
	if err != nil {
		return r, fmt.Errorf("%s: %w", r.Path, err)
	}
	r.Size, r.Sound, r.Generation = info.Size(), journal.end, journal.generation
	for _, name := range slices.Sorted(maps.Keys(journal.locks)) {
		r.Locks = append(r.Locks, journal.locks[name].lock(time.Unix(0, 0)))
	}
	if r.Sound < r.Size || r.Size == 0 {
		return r, fmt.Errorf("%s: %w: %d of %d bytes are whole records", r.Path, ErrNotSound, r.Sound, r.Size)
	}
	return r, nil
}
