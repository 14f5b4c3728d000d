package lockstore

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"latchfs/lockstore/journal"
	"latchfs/lockstore/verdict"
)

// generation returns the highest generation that was given out.
func (w *world) generation() uint64 {
	w.t.Helper()
	next, err := w.store.authority.Next(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	return next - 1
}

// TestReadAheadIsTakenOnce: a store that could not use what was read ahead does not leave it to the next one.
func TestReadAheadIsTakenOnce(t *testing.T) {
	w := newWorld(t)
	ahead := ReadAhead(w.state)
	if read, c := ahead.take(w.now()); read == nil || c != ahead.recovered && ahead.recovered != nil {
		t.Error("it was not taken")
	}
	if read, c := ahead.take(w.now()); read != nil || c == nil || !c.began.Equal(w.now()) {
		t.Error("it was taken twice")
	}
}

// TestCompactionLosesNothing compacts again and again while locks come and go.
func TestCompactionLosesNothing(t *testing.T) {
	w := newWorld(t)
	var workers sync.WaitGroup
	for i := range 4 {
		p := w.run(100+i, 100, 0)
		workers.Go(func() {
			for round := range 300 {
				lock := fmt.Sprintf("%d-%d.lock", i, round%20)
				nameLock := w.store.Enter(lock)
				if nameLock.Held() {
					_ = w.files.Remove(lock)
					nameLock.Release()
				} else if _, err := nameLock.Acquire(verdict.KindCreate, p); err != nil {
					t.Error(err)
				} else {
					w.files.put(lock, "", w.now())
				}
				nameLock.Leave()
			}
		})
	}
	done := make(chan struct{})
	go func() { workers.Wait(); close(done) }()
	for compactions := 0; ; compactions++ {
		if err := w.store.Compact(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-done:
		default:
			continue
		}
		t.Logf("%d compactions", compactions)
		break
	}
	before, generation := slices.Collect(w.store.All(func(string) bool { return true })), w.generation()
	w.restart()
	after := slices.Collect(w.store.All(func(string) bool { return true }))
	if len(before) == 0 || len(after) != len(before) || w.generation() != generation {
		t.Fatalf("%d locks and generation %d before, %d and %d after", len(before), generation, len(after), w.generation())
	}
	for i := range after {
		if after[i].Name != before[i].Name || after[i].Generation != before[i].Generation {
			t.Errorf("was %+v, is %+v", before[i].Lock, after[i].Lock)
		}
	}
}

// TestGenerationsAreNotReusedAfterCompaction: they outlive the locks they were given to.
func TestGenerationsAreNotReusedAfterCompaction(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	for range 5 {
		w.take(name, p, "10\n")
		nameLock := w.store.Enter(name)
		_ = w.files.Remove(name)
		nameLock.Release()
		nameLock.Leave()
	}
	if err := w.store.Compact(); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.take(name, p, "10\n")
	if e, _ := w.entry(name); e.Generation != 6 {
		t.Errorf("generation %d", e.Generation)
	}
}

// TestJournalOfTheVersionBefore: testdata/journal-1 was written by the version before, which kept no
// process groups. It is written on in this version.
func TestJournalOfTheVersionBefore(t *testing.T) {
	text, err := os.ReadFile("testdata/journal-1")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(w.state, journal.Name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	shell, maker := w.run(9, 90, 1000), w.run(10, 100, 1000)
	w.files.put("s/moved.lock", "10\n", w.now())
	w.files.make("s/b.lock", Directory, "", w.now())
	w.open()
	w.take("new.lock", maker, "10\n")
	w.restart()
	for lock, want := range map[string]Lock{
		"s/moved.lock": {Kind: verdict.KindCreate, Generation: 1, Holder: maker, Rule: verdict.RuleNamed},
		"s/b.lock":     {Kind: verdict.KindMkdir, Generation: 2, Holder: shell, Rule: verdict.RuleAncestor},
		"new.lock":     {Kind: verdict.KindCreate, Generation: 4, Holder: maker, Rule: verdict.RuleNamed},
	} {
		e, ok := w.entry(lock)
		if !ok || e.Kind != want.Kind || e.Generation != want.Generation || !e.Holder.Same(want.Holder) || e.Lock.Rule != want.Rule {
			t.Errorf("%s: %+v", lock, e)
		}
	}
	if n := len(w.store.Names()); n != 3 {
		t.Errorf("%d locks", n)
	}
	other := newWorld(t)
	of, err := os.ReadFile(filepath.Join(other.state, journal.Name))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, of[:16]) {
		t.Errorf("its header is not that of this version: %v", err)
	}
}
