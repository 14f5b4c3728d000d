//go:build linux

package fs

import (
	"os"
	"sync"

	"latchfs/lockstore"
)

// What a user may have only so many of at a time.
const (
	limitEvents  = iota // open streams of events
	limitWaiting        // readers of wait/NAME
	limits
)

// limit counts what each user has.
type limit struct {
	mu      sync.Mutex
	of      map[uint32]int
	refused uint64
}

// take counts one more of a user, or returns ErrTooMany if that has most. Root and the mount's owner are not limited, nobody is if most is 0.
func (l *limit) take(uid uint32, most int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if most > 0 && l.of[uid] >= most && uid != 0 && uid != uint32(os.Geteuid()) {
		l.refused++
		return lockstore.ErrTooMany
	}
	if l.of == nil {
		l.of = make(map[uint32]int)
	}
	l.of[uid]++
	return nil
}

// give takes one back.
func (l *limit) give(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[uid]--; l.of[uid] == 0 {
		delete(l.of, uid)
	}
}

// EventReaders is how many have .latchfs/events open.
func (f *FS) EventReaders() int { return f.control.events.size() }

// LimitRefusals is how often a user was refused more streams of events or waits than it may have.
func (f *FS) LimitRefusals() (n uint64) {
	for i := range f.control.limits {
		l := &f.control.limits[i]
		l.mu.Lock()
		n += l.refused
		l.mu.Unlock()
	}
	return n
}
