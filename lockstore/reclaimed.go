package lockstore

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

const (
	reclaimedName = "reclaimed"
	// maxReclaimed bounds the files kept; each is at most maxPayload bytes.
	maxReclaimed = 1000
)

// reclaimed keeps the bytes of lock files that were removed as stale.
type reclaimed struct {
	dir string

	mu    sync.Mutex // guards the fields below
	names []string   // oldest first
}

func openReclaimed(stateDir string) (*reclaimed, error) {
	r := &reclaimed{dir: filepath.Join(stateDir, reclaimedName)}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		r.names = append(r.names, entry.Name())
	}
	slices.Sort(r.names) // they begin with a number of fixed width that grows
	return r, nil
}

// keep writes payload to a new file named after the generation and the lock, and
// forgets the oldest when there are too many. Nothing is to be removed before it has
// succeeded.
func (r *reclaimed) keep(generation uint64, lock string, payload []byte) error {
	escaped := url.PathEscape(lock)
	if len(escaped) > 200 { // a file name holds 255 bytes
		escaped = escaped[len(escaped)-200:]
	}
	name := fmt.Sprintf("%020d-%s", generation, escaped)
	if err := os.WriteFile(filepath.Join(r.dir, name), payload, 0o600); err != nil {
		return noSpace(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at, found := slices.BinarySearch(r.names, name); !found {
		r.names = slices.Insert(r.names, at, name)
	}
	for len(r.names) > maxReclaimed {
		if err := os.Remove(filepath.Join(r.dir, r.names[0])); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		r.names = r.names[1:]
	}
	return nil
}
