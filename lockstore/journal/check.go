package journal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"latchfs/lockstore/authority"
)

// ErrNotSound: a journal has bytes that are no whole records, or is none.
var ErrNotSound = errors.New("journal is not sound")

// Report is what a journal file is found to be.
type Report struct {
	Path       string
	Size       int64  // bytes
	Sound      int64  // bytes of them that are whole records
	Generation uint64 // the highest that was given out
}

// Check reads the journal of a state directory into a replica and changes nothing. It returns ErrNotSound, with the
// report, if a latchfs that opens the journal would cut its end off; ErrNewerFormat; or what the system says. While
// a latchfs writes the journal, its end may be half a record. Check calls progress, which may be nil, with how many
// bytes of all were read.
func Check(dir string, into authority.Replica, progress func(done, all int)) (Report, error) {
	r := Report{Path: filepath.Join(dir, Name)}
	file, err := os.Open(r.Path)
	if err != nil {
		return r, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return r, err
	}
	read, err := replay(file, info.Size(), into, progress)
	if err != nil {
		return r, fmt.Errorf("%s: %w", r.Path, err)
	}
	r.Size, r.Sound, r.Generation = info.Size(), read.end, read.generation
	if r.Sound < r.Size || r.Size == 0 {
		return r, fmt.Errorf("%s: %w: %d of %d bytes are whole records", r.Path, ErrNotSound, r.Sound, r.Size)
	}
	return r, nil
}
