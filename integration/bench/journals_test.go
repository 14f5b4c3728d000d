//go:build linux

package bench

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/tidwall/wal"
	"go.etcd.io/bbolt"
)

// BenchmarkOtherJournals measures two other stores that could keep the records of locks: the records of an
// acquisition and a release, made durable against the death of the process only. BenchmarkJournal in lockstore
// measures latchfs's own journal. The records here are as long as those that it writes.
func BenchmarkOtherJournals(b *testing.B) {
	name := []byte("agents/main/sessions/0123456789abcdef.jsonl.lock")
	acquired, released := bytes.Repeat([]byte("a"), 285), bytes.Repeat([]byte("r"), 51)
	b.Run("wal", func(b *testing.B) {
		log, err := wal.Open(filepath.Join(b.TempDir(), "wal"), &wal.Options{NoSync: true, NoCopy: true})
		if err != nil {
			b.Fatal(err)
		}
		defer log.Close()
		for index := uint64(1); b.Loop(); index += 2 {
			if err := log.Write(index, acquired); err != nil {
				b.Fatal(err)
			}
			if err := log.Write(index+1, released); err != nil {
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
			if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(name, acquired) }); err != nil {
				b.Fatal(err)
			}
			if err := db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Delete(name) }); err != nil {
				b.Fatal(err)
			}
		}
	})
}
