package lockstore

import (
	"sync"
	"time"

	"latchfs/bootid"
)

// lookups answers which process has a number, for files without a record: thousands of them,
// listed at once, often name the same few. An answer is good for a moment, and only for
// a file that was written before it was found: who wrote that one was there then, or has
// ended.
type lookups struct {
	sys bootid.System

	mu    sync.Mutex
	known map[int]lookup
}

type lookup struct {
	process bootid.Process
	err     error
	at      time.Time
}

const (
	lookupLifetime = 50 * time.Millisecond
	maxLookups     = 1024
)

// process describes the process pid for a file that was last written then.
func (l *lookups) process(pid int, written time.Time) (bootid.Process, error) {
	now := time.Now()
	l.mu.Lock()
	known, ok := l.known[pid]
	l.mu.Unlock()
	if ok && now.Sub(known.at) < lookupLifetime && written.Before(known.at.Add(-startTolerance)) {
		return known.process, known.err
	}
	p, err := l.sys.Process(pid)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil || len(l.known) >= maxLookups {
		l.known = make(map[int]lookup)
	}
	l.known[pid] = lookup{p, err, now}
	return p, err
}
