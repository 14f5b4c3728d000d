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
	Released Transition = "released" // by its family, an operator, or, while it is unknown, by anybody
	Reaped   Transition = "reaped"   // it was stale
	Settled  Transition = "settled"  // it turned out to be no lock; the file stays
	Passed   Transition = "passed"   // another process is its holder now
	Moved    Transition = "moved"    // it was renamed
	// Contended: a process of another family looked a live lock up, as a process does that tries to take it.
	Contended Transition = "contended"
	// Refused: a process of another family tried to remove, replace or change a live lock.
	Refused Transition = "refused"
	// Turn: the name is free and reserved for the process that has waited longest.
	Turn Transition = "turn"
)

// Event is one transition.
type Event struct {
	Transition Transition
	Lock       Lock
	Reason     verdict.Reason // of a reaped lock
	By         bootid.Process // the process that contended or was refused, or has the turn
	Waited     time.Duration  // how long the process that has the turn has waited
	Time       time.Time
}

// eventBuffer is how many events a subscriber may be behind.
const eventBuffer = 1024

// Subscription is one reader of events.
type Subscription struct {
	// Events carries the transitions since the subscription. A reader that is more than eventBuffer behind loses
	// some.
	Events <-chan Event

	events chan Event
	from   *subscribers
	lost   uint64 // guarded by from.mu
}

// Lost returns how many events the reader was too slow for.
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

// some reports whether anybody observes events.
func (s *subscribers) some() bool {
	if s.observe != nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all) > 0
}

// publish passes an event to the observer and all subscribers. It never waits for a reader.
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
