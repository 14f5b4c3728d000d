package lockstore

import (
	"errors"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// waitFor has p wait for name and returns what it is told, when it is.
func (w *world) waitFor(ticket uint64, p bootid.Process) (answer <-chan error, waiter *Waiter) {
	told := make(chan error, 2) // one too many
	waiter = w.store.Await(name, ticket, p.UID, p, func(err error) { told <- err })
	return told, waiter
}

func (w *world) release() {
	if err := w.files.Remove(name); err != nil {
		w.t.Fatal(err)
	}
	nameLock := w.store.Enter(name)
	nameLock.Release()
	nameLock.Leave()
}

// acquire reports whether p can take the name now.
func (w *world) acquire(p bootid.Process) error {
	nameLock := w.store.Enter(name)
	d, err := nameLock.Acquire(verdict.KindCreate, p)
	if err == nil {
		w.files.put(name, "", w.now())
	}
	nameLock.Leave()
	if err == nil {
		w.store.Closed(d, false)
	}
	return err
}

// TestWaitersBeforeContenders: a name that becomes free is the one's who has the smallest ticket, before
// anybody else can take it, in the very name lock in which it became free.
func TestWaitersBeforeContenders(t *testing.T) {
	w := newWorld(t)
	holder, first, second, contender := w.run(10, 1, 0), w.run(11, 1, 0), w.run(12, 1, 0), w.run(13, 1, 0)
	w.take(name, holder, "")
	late, _ := w.waitFor(7, second)
	early, _ := w.waitFor(3, first) // read late, by who opened the file first
	w.release()
	if err := w.acquire(contender); !errors.Is(err, ErrReserved) {
		t.Errorf("a contender that comes by: %v", err)
	}
	if err := w.acquire(second); !errors.Is(err, ErrReserved) {
		t.Errorf("who waits too: %v", err)
	}
	if err := <-early; err != nil {
		t.Fatal(err)
	}
	if err := w.acquire(first); err != nil {
		t.Error(err)
	}
	w.end(first, bootid.ExitSignal, true)
	if err := <-late; err != nil {
		t.Error(err)
	}
}

// TestWaiterThatGivesUp: it leaves no trace, even when it is its turn.
func TestWaiterThatGivesUp(t *testing.T) {
	w := newWorld(t)
	holder, first, second := w.run(10, 1, 0), w.run(11, 1, 0), w.run(12, 1, 0)
	w.take(name, holder, "")
	one, waiter := w.waitFor(1, first)
	two, _ := w.waitFor(2, second)
	waiter.Cancel()
	waiter.Cancel()
	if err := <-one; !errors.Is(err, ErrInterrupted) {
		t.Errorf("given up: %v", err)
	}
	w.release()
	if err := <-two; err != nil {
		t.Error(err)
	}
	if err := w.acquire(second); err != nil {
		t.Error(err)
	}
	w.release()
	if len(one) > 0 {
		t.Error("told twice")
	}
	// In its turn it has been told; to give up then changes nothing.
	three, waiter := w.waitFor(3, first)
	if err := <-three; err != nil {
		t.Errorf("of a free name: %v", err)
	}
	waiter.Cancel()
	if err := w.acquire(first); err != nil || len(three) > 0 {
		t.Error(err)
	}
	w.release()
	if n := w.store.waiting.names.Load(); n != 0 || w.store.Waiting() != 0 {
		t.Errorf("%d queues are left", n)
	}
}

// TestTurnOfACommandThatEnded is its script's, and nobody else's.
func TestTurnOfACommandThatEnded(t *testing.T) {
	w := newWorld(t)
	script, cat, other := w.run(10, 1, 0), w.run(11, 1, 0), w.run(12, 1, 0)
	mkdir := w.run(13, 1, 0)
	w.parents[cat.PID], w.parents[mkdir.PID] = script.PID, script.PID
	if told, _ := w.waitFor(1, cat); <-told != nil {
		t.Fatal("not its turn")
	}
	if err := w.acquire(mkdir); !errors.Is(err, ErrReserved) {
		t.Errorf("a sibling of who waited, while that runs: %v", err)
	}
	w.end(cat, bootid.ExitSuccess, true)
	if err := w.acquire(other); !errors.Is(err, ErrReserved) {
		t.Errorf("another: %v", err)
	}
	if err := w.acquire(mkdir); err != nil {
		t.Error(err)
	}
}

// TestUnusedTurnEnds: then it is the next one's.
func TestUnusedTurnEnds(t *testing.T) {
	w := newWorld(t)
	first, second := w.run(10, 1, 1000), w.run(11, 1, 1001)
	one, _ := w.waitFor(1, first)
	two, _ := w.waitFor(2, second)
	if err := <-one; err != nil || len(two) > 0 {
		t.Fatal(err)
	}
	if err := <-two; err != nil {
		t.Fatal(err)
	}
	if err := w.acquire(first); !errors.Is(err, ErrReserved) {
		t.Errorf("whose turn is over: %v", err)
	}
	if err := w.acquire(second); err != nil {
		t.Error(err)
	}
}

// TestUnusedTurnsDoNotFollowEachOther: after one the name is free to anybody before a turn of the same user,
// whether that waited already or comes later, and though others of its kind take turns with it.
func TestUnusedTurnsDoNotFollowEachOther(t *testing.T) {
	for _, already := range []bool{true, false} {
		w := newWorld(t)
		first, accomplice, again, contender := w.run(10, 1, 1000), w.run(11, 1, 1001), w.run(12, 1, 1000), w.run(13, 1, 1002)
		one, _ := w.waitFor(1, first)
		if err := <-one; err != nil {
			t.Fatal(err)
		}
		two, _ := w.waitFor(2, accomplice)
		var three <-chan error
		if already {
			three, _ = w.waitFor(3, again)
		}
		if err := <-two; err != nil { // the first did not use its own
			t.Fatal(err)
		}
		for over := false; !over; time.Sleep(time.Millisecond) {
			w.store.waiting.mu.Lock()
			q := w.store.waiting.queues[name]
			over = q == nil || q.turn == nil
			w.store.waiting.mu.Unlock()
		}
		if !already {
			three, _ = w.waitFor(3, again)
		}
		if len(three) > 0 {
			t.Errorf("the name was free to nobody (waited already: %v)", already)
			continue
		}
		if err := w.acquire(contender); err != nil {
			t.Error(err)
		}
		w.release()
		if err := <-three; err != nil {
			t.Error(err)
		}
	}
}
