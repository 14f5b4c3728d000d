package lockstore

import (
	"sync"
	"time"
)

// readDelay is how long the payload of a lock whose descriptor was closed may wait to be read, if nothing
// is asked of it: a lock that is released before is not read at all.
const readDelay = 20 * time.Millisecond

// pending payload are the locks whose payload waits.
type pendingPayload struct {
	mu      sync.Mutex
	records []*record
	timer   *time.Timer // nil while there are none
	closed  bool
	reading sync.WaitGroup
}

// readSoon reads the payload of r, whose descriptor was closed, in a while.
func (s *Store) readSoon(r *record) {
	s.mu.Lock()
	r.pendingPayload = !r.gone
	s.mu.Unlock()
	u := &s.pendingPayload
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return // to be judged by who opens the journal next
	}
	if u.records = append(u.records, r); u.timer == nil {
		u.reading.Add(1)
		u.timer = time.AfterFunc(readDelay, s.readWaiting)
	}
}

// readWaiting reads all that wait.
func (s *Store) readWaiting() {
	u := &s.pendingPayload
	defer u.reading.Done()
	u.mu.Lock()
	records := u.records
	u.records, u.timer = nil, nil
	u.mu.Unlock()
	for _, r := range records {
		s.readNow(r)
	}
}

// readNow reads the payload of r if it was not since its descriptor was closed, with all that follows.
func (s *Store) readNow(r *record) {
	if s.payloadPending(r) {
		s.written(r)
	}
}

// readNow does so within the name lock, so that a decision rests on it.
func (c NameLock) readNow(r *record) {
	if c.store.payloadPending(r) {
		c.store.identify(r)
	}
}

// payloadPending says so of r, once.
func (s *Store) payloadPending(r *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := r.pendingPayload && !r.gone
	r.pendingPayload = false
	return was
}

// readAll reads what waits, and lets nothing wait any more.
func (s *Store) readAll() {
	u := &s.pendingPayload
	u.mu.Lock()
	u.closed = true
	waits := u.timer != nil && u.timer.Stop()
	u.mu.Unlock()
	if waits {
		s.readWaiting()
	}
	u.reading.Wait()
}
