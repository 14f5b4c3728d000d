package lockstore

import (
	"iter"
	"maps"
	"slices"
	"time"

	"latchfs/lockstore/verdict"
)

// maxRecent is how many reaped locks are remembered.
const maxRecent = 100

// Reaping is a lock that was reaped, and why.
type Reaping struct {
	Lock
	verdict.Judgment
	Time time.Time
}

// Entry is a lock and what is known of its holder now.
type Entry struct {
	Lock
	verdict.Judgment
	// Open reports that the descriptor it was made with is open.
	Open bool
}

// Names returns the names of all locks, in no order. A lock that is released and taken again meanwhile may be in it
// twice.
func (s *Store) Names() []string {
	const batch = 4096 // so that mu is not held for long
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.locks))
	for name := range s.locks {
		if names = append(names, name); len(names)%batch == 0 {
			s.mu.Unlock()
			s.mu.Lock()
		}
	}
	return names
}

// Count returns how many locks there are.
func (s *Store) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// Verdicts returns how many locks there are of each verdict.
func (s *Store) Verdicts() map[verdict.Verdict]int {
	s.mu.Lock()
	records := slices.Collect(maps.Values(s.locks))
	s.mu.Unlock()
	verdicts := make(map[verdict.Verdict]int)
	for _, r := range records {
		s.mu.Lock()
		holder := r.holder
		s.mu.Unlock()
		// A watch reports a death at once, so the kernel need not be asked about a million locks.
		if s.maxHold == 0 && s.processes.seemsToRun(holder) {
			verdicts[verdict.Live]++
		} else {
			verdicts[s.judge(r).Verdict]++
		}
	}
	return verdicts
}

// JournalSize returns the size of the recorded locks and their history, in bytes.
func (s *Store) JournalSize() int64 { return s.authority.Status().Size }

// Descriptors returns the open descriptors of Predecessor.Open whose locks exist, by generation.
func (s *Store) Descriptors() map[uint64]*Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make(map[uint64]*Descriptor)
	for _, r := range s.reopened {
		if r.open && !r.gone {
			open[r.Generation] = &Descriptor{r}
		}
	}
	return open
}

// All judges the locks in the order of their names, without any consequence. It skips each lock for whose name
// asked reports false when its turn comes.
func (s *Store) All(asked func(name string) bool) iter.Seq[Entry] {
	names := s.Names()
	return func(yield func(Entry) bool) {
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !asked(name) {
				continue
			}
			if entry, ok := s.Get(name); ok && !yield(entry) {
				return
			}
		}
	}
}

// Get judges the lock of a name, and reports whether there is one. That has no consequence, unless the lock was
// recovered and was not looked at yet.
func (s *Store) Get(name string) (Entry, bool) {
	if s.unverified.Load() > 0 {
		s.Enter(name).Leave()
	}
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	if r == nil {
		return Entry{}, false
	}
	return s.entry(r)
}

// entry judges a lock, and reports whether it exists.
func (s *Store) entry(r *record) (Entry, bool) {
	s.readNow(r)
	d := s.judge(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock(s.began)
	if d.Verdict == verdict.Live && d.Holder.Known() {
		l.Holder = d.Holder // the lock will pass to it
	}
	return Entry{l, d.Judgment, r.open}, !r.gone
}

// Recent returns the last locks that were reaped, the oldest first.
func (s *Store) Recent() []Reaping {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.recent)
}

// Holds reports whether there is a lock of that name, whatever its verdict.
func (s *Store) Holds(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks[name] != nil
}
