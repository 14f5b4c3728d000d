package lockstore

import (
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// cycle acquires and releases a lock of p, as a program that takes and gives one back does.
func (w *world) cycle(p bootid.Process) {
	nameLock := w.store.Enter(name)
	d, err := nameLock.Acquire(verdict.KindCreate, p)
	if err != nil {
		w.t.Fatal(err)
	}
	nameLock.Leave()
	w.store.Closed(d, false)
	nameLock = w.store.Enter(name)
	nameLock.Release()
	nameLock.Leave()
}

// silentWorld is a world whose store logs nothing, as one that logs from info on.
func silentWorld(t testing.TB) *world {
	w := newWorld(t)
	w.log.SetOutput(io.Discard)
	w.log.SetLevel(logrus.InfoLevel)
	return w
}

// TestCycleAllocations: what an acquisition and its release allocate, with the journal.
func TestCycleAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates too")
	}
	w := silentWorld(t)
	p := w.run(10, 100, 0)
	if n := testing.AllocsPerRun(1000, func() { w.cycle(p) }); n > 4 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkCycle is the time of the same, of a process that holds other locks.
func BenchmarkCycle(b *testing.B) {
	w := silentWorld(b)
	p := w.run(10, 100, 0)
	w.take("another.lock", p, "10\n")
	b.ReportAllocs()
	for b.Loop() {
		w.cycle(p)
	}
}
