package lockstore

import (
	"errors"
	"testing"
	"time"

	"latchfs/bootid"
)

// waitFor has p wait for name and returns what Wait answers, when it does.
func (w *world) waitFor(cancel <-chan struct{}, ticket uint64, p bootid.Process) <-chan error {
	before := w.store.Waiting()
	answer := make(chan error, 1)
	go func() { answer <- w.store.Wait(cancel, name, ticket, p) }()
	for w.store.Waiting() == before && len(answer) == 0 {
		time.Sleep(time.Millisecond)
	}
	return answer
}

func (w *world) release() {
	if err := w.files.Remove(name); err != nil {
		w.t.Fatal(err)
	}
	section := w.store.Enter(name)
	section.Release()
	section.Leave()
}

// acquire says whether p can take the name now.
func (w *world) acquire(p bootid.Process) error {
	section := w.store.Enter(name)
	d, err := section.Acquire(KindCreate, p)
	if err == nil {
		w.files.put(name, "", w.now())
	}
	section.Leave()
	if err == nil {
		w.store.Closed(d, false)
	}
	return err
}

// TestWaitersBeforeContenders: a name that becomes free is the one's who has the smallest ticket, before
// anybody else can take it, in the very section in which it became free.
func TestWaitersBeforeContenders(t *testing.T) {
	w := newWorld(t)
	holder, first, second, contender := w.run(10, 1, 0), w.run(11, 1, 0), w.run(12, 1, 0), w.run(13, 1, 0)
	w.take(name, holder, "")
	late := w.waitFor(nil, 7, second)
	early := w.waitFor(nil, 3, first) // read late, by who opened the file first
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
	cancel := make(chan struct{})
	one, two := w.waitFor(cancel, 1, first), w.waitFor(nil, 2, second)
	close(cancel)
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
	// A closed channel: now or never.
	if err := w.store.Wait(cancel, name, 3, first); err != nil {
		t.Errorf("of a free name: %v", err)
	}
	if err := w.store.Wait(cancel, name, 4, second); !errors.Is(err, ErrInterrupted) {
		t.Errorf("of one that is reserved: %v", err)
	}
	if err := w.acquire(first); err != nil {
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
	if err := <-w.waitFor(nil, 1, cat); err != nil {
		t.Fatal(err)
	}
	if err := w.acquire(mkdir); !errors.Is(err, ErrReserved) {
		t.Errorf("a sibling of who waited, while that runs: %v", err)
	}
	w.end(cat, bootid.ExitNormal, true)
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
	first, second := w.run(10, 1, 0), w.run(11, 1, 0)
	if err := <-w.waitFor(nil, 1, first); err != nil {
		t.Fatal(err)
	}
	if err := <-w.waitFor(nil, 2, second); err != nil {
		t.Fatal(err)
	}
	if err := w.acquire(first); !errors.Is(err, ErrReserved) {
		t.Errorf("whose turn is over: %v", err)
	}
	if err := w.acquire(second); err != nil {
		t.Error(err)
	}
}
