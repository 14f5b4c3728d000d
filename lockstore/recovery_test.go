package lockstore

import (
	"fmt"
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
		section := w.store.Enter(fmt.Sprintf("agents/main/sessions/%08d.jsonl.lock", i))
		if _, err := section.Acquire(verdict.KindCreate, all[i%processes]); err != nil {
			b.Fatal(err)
		}
		section.Leave()
	}
	b.ReportAllocs()
	for b.Loop() {
		w.restart()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/locks, "ns/lock")
}
