package journal

import (
	"context"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

func testRecord() authority.Record {
	p := bootid.Process{
		BootID: "d09158e4-8a57-45d5-ad99-432e0d98241d", PID: 123456, StartTime: 987654321, PIDNamespace: 4026531836, NSPID: 123456, UID: 1000, Command: "openclaw",
	}
	return authority.Record{
		Kind: verdict.KindCreate, Name: "agents/main/sessions/0123456789abcdef.jsonl.lock", Generation: 1, Made: time.Unix(1_700_000_000, 0),
		Origin: &authority.Origin{
			BootID: p.BootID, MachineID: "3d1219c7c4c5404aaa1f6d2a48adfda4", Namespace: bootid.Namespace{Inode: 4026531836, Started: 1},
		},
		Creator: &p, Holder: &p, Rule: verdict.RuleCreator,
	}
}

// BenchmarkJournal measures the records of an acquisition and a release, which survive the death of the process only.
// integration/bench measures the same for other stores (BenchmarkOtherJournals).
func BenchmarkJournal(b *testing.B) {
	l := testRecord()
	j, _ := open(b, b.TempDir())
	defer j.Close()
	for b.Loop() {
		var err error
		if l.Generation, err = j.Acquire(context.Background(), l); err != nil {
			b.Fatal(err)
		}
		if err := j.Release(context.Background(), l); err != nil {
			b.Fatal(err)
		}
	}
}
