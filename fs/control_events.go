//go:build linux

package fs

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/lockstore"
)

// maxPendingEvents is how many bytes wait for a reader before events are lost.
const maxPendingEvents = 256 << 10

// eventStream is an open .latchfs/events.
type eventStream struct {
	fs           *FS
	to           accessor // who opened it
	subscription *lockstore.Subscription

	mu      sync.Mutex
	taken   sync.Cond // pending was taken, or the stream is closed
	pending []byte
	reading func([]byte, error) // the reader that waits, nil if none does
	told    uint64              // how many events the reader was told that it has lost
	closed  bool
}

// newEventStream begins one of a user; restarted says that a server which has died opened it.
func newEventStream(f *FS, to accessor, restarted bool) *eventStream {
	s := &eventStream{fs: f, to: to, subscription: f.locks.Subscribe()}
	s.taken.L = &s.mu
	if restarted {
		s.add(EventInfo{Time: time.Now(), Event: "restarted"})
	}
	go s.follow()
	return s
}

// follow adds what happens.
func (s *eventStream) follow() {
	for e := range s.subscription.Events {
		s.tellLost()
		if !s.fs.sees(s.to, e.Lock.Name, listsIt) {
			continue
		}
		s.add(EventInfo{
			Time: e.Time, Event: string(e.Transition), Name: e.Lock.Name, Kind: string(e.Lock.Kind), Generation: e.Lock.Generation,
			Reason: string(e.Reason), Holder: ProcessInfoOf(e.Lock.Holder), By: ProcessInfoOf(e.By), Waited: e.Waited.Seconds(),
		})
	}
}

// tellLost adds how many events were lost since that was told.
func (s *eventStream) tellLost() {
	lost := s.subscription.Lost()
	s.mu.Lock()
	more := lost - s.told
	s.told = lost
	s.mu.Unlock()
	if more > 0 {
		s.add(EventInfo{Time: time.Now(), Event: "lost", Lost: more})
	}
}

func (s *eventStream) add(e EventInfo) {
	line, err := json.Marshal(e)
	if err != nil {
		return // it is made of strings and numbers
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) > maxPendingEvents && !s.closed {
		s.taken.Wait()
	}
	s.pending = append(append(s.pending, line...), '\n')
	if reply := s.reading; reply != nil {
		s.reading = nil
		reply(s.take(len(s.pending)), nil)
	}
}

// take takes the first n bytes that wait; mu is held.
func (s *eventStream) take(n int) []byte {
	n = min(n, len(s.pending))
	text := append([]byte(nil), s.pending[:n]...)
	s.pending = append(s.pending[:0], s.pending[n:]...)
	s.taken.Signal()
	return text
}

// read answers with what waits, or what comes next.
func (s *eventStream) read(in *fuse.ReadIn, reply func([]byte, error)) (cancel func()) {
	if len(s.subscription.Events) == 0 {
		s.tellLost()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.pending) > 0:
		reply(s.take(int(in.Size)), nil)
	case s.reading != nil: // another thread reads the same open file
		reply(nil, lockstore.ErrInterrupted)
	default:
		s.reading = func(text []byte, err error) {
			if rest := text[min(len(text), int(in.Size)):]; len(rest) > 0 {
				s.pending = append(append([]byte(nil), rest...), s.pending...)
			}
			reply(text[:min(len(text), int(in.Size))], err)
		}
		return s.interrupt
	}
	return func() {}
}

func (s *eventStream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reply := s.reading; reply != nil {
		s.reading = nil
		reply(nil, lockstore.ErrInterrupted)
	}
}

func (s *eventStream) close() {
	s.mu.Lock()
	s.closed = true
	s.taken.Signal()
	s.mu.Unlock()
	s.subscription.Close()
}
