package lockstore

import (
	"maps"
	"sync/atomic"
	"time"

	"latchfs/lockstore/authority"
)

// syncing is one reason to sync the authority soon.
type syncing struct {
	due   atomic.Bool
	timer atomic.Pointer[time.Timer]
}

// How long records may wait to be synced. After a power cut, a lock whose record is lost may be an empty file that
// cannot be told from one that is no lock. A file that is no lock, if its record is not synced, would be taken for
// a stale lock.
const (
	settledDelay  = 100 * time.Millisecond
	acquiredDelay = time.Second
)

// syncSoon syncs the authority in the background.
func (s *Store) syncSoon(why *syncing, delay time.Duration) {
	if why.due.Load() || why.due.Swap(true) {
		return
	}
	s.background.Add(1)
	why.timer.Store(time.AfterFunc(delay, func() {
		defer s.background.Done()
		why.due.Store(false)
		s.sync()
	}))
}

func (s *Store) sync() {
	if err := s.authority.Sync(s.ctx); err != nil {
		s.log.WithError(err).Warn("could not sync the journal")
	}
}

// compactIfDue starts a compaction in the background if the authority's history is long and none runs.
func (s *Store) compactIfDue() {
	if !s.authority.Status().CompactionDue || !s.compacting.CompareAndSwap(false, true) {
		return
	}
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		defer s.compacting.Store(false)
		if err := s.Compact(); err != nil {
			s.log.WithError(err).Warn("could not compact the journal; will try again when it has grown")
		}
	}()
}

// Compact replaces the journal by one that holds only the existing locks. It does not hold up callers of other
// methods.
func (s *Store) Compact() error { return s.authority.Compact(s.ctx, snapshot{s}) }

// snapshot is the authority.Source of a running store.
type snapshot struct{ store *Store }

func (p snapshot) Begin(begin func()) {
	p.store.changes.Lock()
	defer p.store.changes.Unlock()
	begin()
}

func (p snapshot) SettledFiles() map[string]authority.Settled {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	return maps.Clone(p.store.settled)
}

// Records yields locks in batches, so that mu is never held for long. It rests as long as each batch takes, so that
// a processor is not busy for long either.
func (p snapshot) Records(yield func(authority.Record) error) error {
	const batch = 128
	s := p.store
	pending := make([]authority.Record, 0, batch)
	flush := func() error {
		for _, r := range pending {
			if err := yield(r); err != nil {
				return err
			}
		}
		pending = pending[:0]
		return nil
	}
	s.mu.Lock()
	for _, r := range s.locks {
		if pending = append(pending, r.stored(s.began)); len(pending) < batch {
			continue
		}
		s.mu.Unlock()
		began := time.Now()
		err := flush()
		time.Sleep(time.Since(began))
		if err != nil {
			return err
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	return flush()
}
