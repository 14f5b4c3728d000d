package lockstore

import (
	"sync"
	"time"
)

// readDelay is how long the payload of a lock may stay unread after its descriptor was closed, if nobody looks at
// the lock. A lock that is released before is not read at all.
const readDelay = 20 * time.Millisecond

// pendingPayload holds the locks whose payload is to be read.
type pendingPayload struct {
	mu      sync.Mutex
	records []*record
	timer   *time.Timer // reads them; nil while there are none
	closed  bool
	reading sync.WaitGroup
}

// readSoon has the payload of r read after readDelay. Its descriptor was closed.
func (s *Store) readSoon(r *record) {
	s.mu.Lock()
	r.pendingPayload = !r.gone
	s.mu.Unlock()
	u := &s.pendingPayload
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return // the next latchfs judges it
	}
	if u.records = append(u.records, r); u.timer == nil {
		u.reading.Add(1)
		u.timer = time.AfterFunc(readDelay, s.readPending)
	}
}

// readPending reads the payloads of all locks in pendingPayload.
func (s *Store) readPending() {
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

// readNow reads the payload of r if it was not read since the descriptor was closed, and does what follows.
func (s *Store) readNow(r *record) {
	if s.payloadPending(r) {
		s.written(r)
	}
}

// readNow is Store.readNow within the name lock: the caller judges r next.
func (c NameLock) readNow(r *record) {
	if c.store.payloadPending(r) {
		c.store.identify(r)
	}
}

// payloadPending reports, once, that the payload of r is to be read.
func (s *Store) payloadPending(r *record) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := r.pendingPayload && !r.gone
	r.pendingPayload = false
	return was
}

// readAll reads all pending payloads. After it, none is added.
func (s *Store) readAll() {
	u := &s.pendingPayload
	u.mu.Lock()
	u.closed = true
	waits := u.timer != nil && u.timer.Stop()
	u.mu.Unlock()
	if waits {
		s.readPending()
	}
	u.reading.Wait()
}
