package lockstore

import (
	"fmt"
	"sync"
	"testing"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// BenchmarkRecovery opens a store that holds 100,000 locks of 100 processes.
func BenchmarkRecovery(b *testing.B) {
	const locks, processes = 100_000, 100
	w := silentWorld(b)
	all := make([]bootid.Process, processes)
	for i := range all {
		all[i] = w.run(1000+i, 100, 0)
	}
	for i := range locks {
		nameLock := w.store.Enter(fmt.Sprintf("agents/main/sessions/%08d.jsonl.lock", i))
		if _, err := nameLock.Acquire(verdict.KindCreate, all[i%processes]); err != nil {
			b.Fatal(err)
		}
		nameLock.Leave()
	}
	b.ReportAllocs()
	for b.Loop() {
		w.restart()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/locks, "ns/lock")
}

// TestFirstLookAtTheClose: a recovered lock is looked at for the first time while the descriptor it was
// made with is closed. Its text is read by one of the two.
func TestFirstLookAtTheClose(t *testing.T) {
	for range 50 {
		w := newWorld(t)
		maker := w.run(10, 100, 0)
		nameLock := w.store.Enter(name)
		d, err := nameLock.Acquire(verdict.KindCreate, maker)
		if err != nil {
			t.Fatal(err)
		}
		w.files.put(name, "10\n", w.now())
		nameLock.Leave()
		w.left = map[uint64]bool{d.Generation(): true}
		w.restart()
		reopened := w.store.Descriptors()[d.Generation()]
		var both sync.WaitGroup
		both.Go(func() { w.store.Enter(name).Leave() })
		both.Go(func() { w.store.Closed(reopened, false) })
		both.Wait()
		if e, ok := w.entry(name); !ok || e.Lock.Rule != verdict.RuleNamed {
			t.Fatalf("its text is not read: %+v", e)
		}
		w.store.Close()
	}
}
