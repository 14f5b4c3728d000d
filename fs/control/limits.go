//go:build linux

package control

import (
	"os"
	"sync"

	"latchfs/lockstore"
)

// The things that are limited for each user.
const (
	limitEvents  = iota // open streams of events
	limitWaiting        // readers of wait/NAME
	limits
)

// limit counts one of those things for each user.
type limit struct {
	mu      sync.Mutex
	of      map[uint32]int // by uid
	refused uint64
}

// take counts one more for a user. It returns ErrTooMany if the user has most already. Root and the mount's owner are
// not limited; most 0 is no limit for anybody.
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

// give counts one less for a user.
func (l *limit) give(uid uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[uid]--; l.of[uid] == 0 {
		delete(l.of, uid)
	}
}

// EventReaders returns the number of open event streams.
func (d *Dir) EventReaders() int { return d.events.size() }

// LimitRefusals returns how often a user was refused another event stream or wait because of Options.MaxWaitingPerUser.
func (d *Dir) LimitRefusals() (n uint64) {
	for i := range d.limits {
		l := &d.limits[i]
		l.mu.Lock()
		n += l.refused
		l.mu.Unlock()
	}
	return n
}
