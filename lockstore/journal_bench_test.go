package lockstore

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/tidwall/wal"
	"go.etcd.io/bbolt"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

func benchLock() Lock {
	p := bootid.Process{BootID: "d09158e4-8a57-45d5-ad99-432e0d98241d", PID: 123456, StartTime: 987654321, PIDNamespace: 4026531836, NSPID: 123456, UID: 1000, Command: "openclaw"}
	return Lock{Kind: verdict.KindCreate, Namespace: bootid.Namespace{Inode: 4026531836, Started: 1}, Name: "agents/main/sessions/0123456789abcdef.jsonl.lock", Generation: 1, Made: time.Unix(1_700_000_000, 0),
		BootID: p.BootID, MachineID: "3d1219c7c4c5404aaa1f6d2a48adfda4", Creator: p, Holder: p, Rule: verdict.RuleCreator}
}

// BenchmarkJournal measures what the package comment compares: the records of an
// acquisition and a release, made durable against the death of the process only.
func BenchmarkJournal(b *testing.B) {
	l := benchLock()
	b.Run("own", func(b *testing.B) {
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
	})
	b.Run("wal", func(b *testing.B) {
		log, err := wal.Open(filepath.Join(b.TempDir(), "wal"), &wal.Options{NoSync: true, NoCopy: true})
		if err != nil {
			b.Fatal(err)
		}
		defer log.Close()
		var buffer []byte
		for index := uint64(1); b.Loop(); index += 2 {
			buffer = appendPut(buffer[:0], &l)
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
				return tx.Bucket(bucket).Put([]byte(l.Name), appendPut(nil, &l))
			}); err != nil {
				b.Fatal(err)
			}
			if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete([]byte(l.Name)) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
