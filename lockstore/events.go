package lockstore

import (
	"sync"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// Transition is what happened to a lock.
type Transition string

// The transitions of a lock.
const (
	Acquired Transition = "acquired"
	Released Transition = "released" // by its family, an operator, or anybody while unknown
	Reaped   Transition = "reaped"   // it was stale
	Dropped  Transition = "settled"  // it turned out to be no lock; the file stays
	Passed   Transition = "passed"   // another process is its holder now
	Moved    Transition = "moved"    // it was renamed
	// Contended and Refused are none, but worth knowing: somebody of another family looked a live lock up, as who tries
	// to take it does, or tried to take it away.
	Contended Transition = "contended"
	Refused   Transition = "refused"
	// Turn: the name, which is free, is reserved for who waited for it.
	Turn Transition = "turn"
)

// Event is one transition.
type Event struct {
	Transition Transition
	Lock       Lock
	Reason     verdict.Reason // of a reaped one
	By         bootid.Process // who contended or was refused, or whose turn it is
	Waited     time.Duration  // by whose turn it is
	Time       time.Time
}

// eventBuffer is how many events a subscriber may be behind.
const eventBuffer = 1024

// Subscription is one reader of events.
type Subscription struct {
	// Events carries the transitions from the subscription on. A reader that
	// is behind loses some.
	Events <-chan Event

	events chan Event
	from   *subscribers
	lost   uint64 // guarded by from.mu
}

// Lost is how many events the reader was too slow for.
func (s *Subscription) Lost() uint64 {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	return s.lost
}

// Close ends the subscription and closes Events.
func (s *Subscription) Close() {
	s.from.mu.Lock()
	defer s.from.mu.Unlock()
	if s.from.all[s] {
		delete(s.from.all, s)
		close(s.events)
	}
}

type subscribers struct {
	observe func(Event) // may be nil
	mu      sync.Mutex
	all     map[*Subscription]bool
}

func (s *subscribers) add() *Subscription {
	events := make(chan Event, eventBuffer)
	sub := &Subscription{Events: events, events: events, from: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*Subscription]bool)
	}
	s.all[sub] = true
	return sub
}

// some says that anybody is told.
func (s *subscribers) some() bool {
	if s.observe != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all) > 0
}

// publish never waits for a reader.
func (s *subscribers) publish(e Event) {
	if s.observe != nil {
		s.observe(e)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := range s.all {
		select {
		case sub.events <- e:
		default:
			sub.lost++
		}
	}
}
