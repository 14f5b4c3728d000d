package journal

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/tidwall/wal"
	"go.etcd.io/bbolt"

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

// BenchmarkJournal measures what the package comment compares: the records of an acquisition and a release, which
// survive the death of the process only.
func BenchmarkJournal(b *testing.B) {
	l := testRecord()
	b.Run("own", func(b *testing.B) {
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
	})
	b.Run("wal", func(b *testing.B) {
		log, err := wal.Open(filepath.Join(b.TempDir(), "wal"), &wal.Options{NoSync: true, NoCopy: true})
		if err != nil {
			b.Fatal(err)
		}
		defer log.Close()
		var buffer []byte
		for index := uint64(1); b.Loop(); index += 2 {
			buffer = appendPut(buffer[:0], &l, l.Name)
			if err := log.Write(index, buffer); err != nil {
				b.Fatal(err)
			}
			buffer = appendDelete(buffer[:0], l.Name, l.Generation)
			if err := log.Write(index+1, buffer); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bbolt", func(b *testing.B) {
		db, err := bbolt.Open(filepath.Join(b.TempDir(), "bolt"), 0o600, &bbolt.Options{NoSync: true, NoFreelistSync: true})
		if err != nil {
			b.Fatal(err)
		}
		defer db.Close()
		bucket := []byte("locks")
		if err := db.Update(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket(bucket); return err }); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := db.Update(func(tx *bbolt.Tx) error {
				return tx.Bucket(bucket).Put([]byte(l.Name), appendPut(nil, &l, l.Name))
			}); err != nil {
				b.Fatal(err)
			}
			if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(l.Name)) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
