package lockstore

import (
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

func benchLock() Lock {
	p := bootid.Process{BootID: "d09158e4-8a57-45d5-ad99-432e0d98241d", PID: 123456, StartTime: 987654321, PIDNamespace: 4026531836, NSPID: 123456, UID: 1000, Command: "openclaw"}
	return Lock{Kind: verdict.KindCreate, Namespace: bootid.Namespace{Inode: 4026531836, Started: 1}, Name: "agents/main/sessions/0123456789abcdef.jsonl.lock", Generation: 1, Made: time.Unix(1_700_000_000, 0),
		BootID: p.BootID, MachineID: "3d1219c7c4c5404aaa1f6d2a48adfda4", Creator: p, Holder: p, Rule: verdict.RuleCreator}
}

// BenchmarkJournal measures the records of an acquisition and a release, made durable against the death of the
// process only. integration/bench measures the same for other stores (BenchmarkOtherJournals).
func BenchmarkJournal(b *testing.B) {
	l := benchLock()
	j, _, err := openJournal(b.TempDir(), nil, logrus.New())
	if err != nil {
		b.Fatal(err)
	}
	defer j.close()
	for b.Loop() {
		if err := j.put(l, true); err != nil {
			b.Fatal(err)
		}
		if err := j.delete(l.Name, l.Generation, 0); err != nil {
			b.Fatal(err)
		}
	}
}
