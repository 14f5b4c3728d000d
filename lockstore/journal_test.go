package lockstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

func quiet(t *testing.T) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(t.Output())
	return log
}

// writeJournal makes a journal of n locks, every third of which is deleted again, and
// returns its bytes and the state after each frame by its end.
func writeJournal(t *testing.T, n int) (text []byte, states map[int]map[string]Lock) {
	t.Helper()
	dir := t.TempDir()
	j, _, err := openJournal(dir, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	state := make(map[string]Lock)
	states = map[int]map[string]Lock{int(j.size): maps.Clone(state)}
	for i := range n {
		l := benchLock()
		l.Name, l.Generation = fmt.Sprintf("%d.lock", i), uint64(i+1)
		if err := j.put(l, true); err != nil {
			t.Fatal(err)
		}
		state[l.Name] = l
		states[int(j.size)] = maps.Clone(state)
		if i%3 == 0 {
			if err := j.delete(l.Name, l.Generation, 0); err != nil {
				t.Fatal(err)
			}
			delete(state, l.Name)
			states[int(j.size)] = maps.Clone(state)
		}
	}
	if text, err = os.ReadFile(j.path); err != nil {
		t.Fatal(err)
	}
	return text, states
}

// TestJournalCutAnywhere: whatever the length it is cut to, exactly the whole frames count.
func TestJournalCutAnywhere(t *testing.T) {
	text, states := writeJournal(t, 100)
	want := map[string]Lock{}
	for length := range len(text) + 1 {
		if raceEnabled && length%61 != 0 && states[length] == nil {
			continue
		}
		if state, ok := states[length]; ok {
			want = state
		}
		locks, _, end, err := replayText(text[:length])
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(names(whole(locks)), names(want)) {
			t.Fatalf("cut to %d bytes: %v, want %v", length, names(whole(locks)), names(want))
		}
		if _, ok := states[end]; !ok && end != 0 {
			t.Fatalf("cut to %d bytes: ends in the middle of a frame, at %d", length, end)
		}
	}
}

// TestLongJournal: one that is read in pieces is read as a whole.
func TestLongJournal(t *testing.T) {
	const locks = 60_000
	text := journalHeader()
	l := benchLock()
	for i := range locks {
		l.Name, l.Generation = fmt.Sprintf("%d.lock", i), uint64(i)
		text = append(text, seal(appendPut(newFrame(nil), &l))...)
	}
	if len(text) < 2*framesWindow {
		t.Fatalf("%d bytes are too few", len(text))
	}
	all, generation, end, err := replayText(append(text, "torn"...))
	if err != nil || len(all) != locks || generation != locks-1 || end != len(text) {
		t.Fatalf("%d locks, generation %d, up to %d of %d: %v", len(all), generation, end, len(text), err)
	}
	for name, r := range all {
		l.Name, l.Generation = name, r.Generation
		if name != fmt.Sprintf("%d.lock", r.Generation) || !reflect.DeepEqual(r.lock(time.Unix(0, 0)), l) {
			t.Fatalf("%s: %+v", name, r)
		}
	}
}

// TestJournalFlippedBit: what a broken frame says is never believed.
func TestJournalFlippedBit(t *testing.T) {
	text, states := writeJournal(t, 100)
	generations := make(map[int]map[string]uint64)
	for end, state := range states {
		generations[end] = names(state)
	}
	broken := bytes.Clone(text)
	step := 1
	if raceEnabled {
		step = 61
	}
	for bit := 0; bit < 8*len(text); bit += step {
		at := bit / 8
		broken[at] ^= 1 << (bit % 8)
		locks, _, end, err := replayText(broken)
		if errors.Is(err, ErrNewerFormat) {
			t.Fatalf("byte %d: a broken journal was taken for a newer one", at)
		}
		state, ok := generations[end]
		if end > at || end != 0 && !ok || end != 0 && !maps.Equal(names(whole(locks)), state) {
			t.Fatalf("bit %d of byte %d: %v up to %d", bit%8, at, names(whole(locks)), end)
		}
		broken[at] = text[at]
	}
}

func replayText(text []byte) (locks map[string]*record, generation uint64, end int, err error) {
	r, err := replayJournal(bytes.NewReader(text), int64(len(text)), nil)
	if err != nil {
		return nil, 0, 0, err
	}
	return r.locks, r.generation, int(r.end), nil
}

func whole(locks map[string]*record) map[string]Lock {
	all := make(map[string]Lock)
	for name, l := range locks {
		all[name] = l.lock(time.Unix(0, 0))
	}
	return all
}

func applied(payload []byte) (map[string]Lock, error) {
	r := newReplayed(0)
	err := r.apply(payload)
	return whole(r.locks), err
}

func names(locks map[string]Lock) map[string]uint64 {
	generations := make(map[string]uint64)
	for name, l := range locks {
		generations[name] = l.Generation
	}
	return generations
}

// TestTornTailIsKeptAside: appending goes on behind the last whole frame.
func TestTornTailIsKeptAside(t *testing.T) {
	text, _ := writeJournal(t, 4)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, journalName), append(text, "torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	j, said, err := openJournal(dir, nil, quiet(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(said.locks) != 2 || said.generation != 4 {
		t.Errorf("%v, generation %d", names(whole(said.locks)), said.generation)
	}
	l := benchLock()
	if err := j.put(l, true); err != nil {
		t.Fatal(err)
	}
	j.close()
	if _, said, err = openJournal(dir, nil, quiet(t)); err != nil || len(said.locks) != 3 {
		t.Errorf("%+v %v", said, err)
	}
	if aside, _ := filepath.Glob(filepath.Join(dir, "journal.cut-*")); len(aside) != 1 {
		t.Errorf("kept %v", aside)
	}
}

// TestReadAhead: what was read ahead counts if it is all of the journal that is there, and once.
func TestReadAhead(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.take("before.lock", p, "10\n")
	ahead, stale := ReadAhead(w.state), ReadAhead(w.state)
	<-ahead.done
	<-stale.done
	path := filepath.Join(w.state, journalName)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if r := ahead.take(info); r == nil || len(r.locks) != 1 || ahead.take(info) != nil {
		t.Errorf("%+v", r)
	}
	w.take("after.lock", p, "10\n")
	if info, err = os.Stat(path); err != nil || stale.take(info) != nil {
		t.Errorf("%v: an older journal was taken", err)
	}
	if err := w.store.Compact(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, info.Size()); err != nil {
		t.Fatal(err)
	}
	other := ReadAhead(w.state)
	<-other.done
	if other.take(info) != nil {
		t.Error("another file was taken for the journal")
	}
	if none := ReadAhead(t.TempDir()); none.take(info) != nil {
		t.Error("a journal that is not there was taken")
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
	before, generation := slices.Collect(w.store.All(func(string) bool { return true })), w.store.generation.Load()
	w.restart()
	after := slices.Collect(w.store.All(func(string) bool { return true }))
	if len(before) == 0 || len(after) != len(before) || w.store.generation.Load() != generation {
		t.Fatalf("%d locks and generation %d before, %d and %d after", len(before), generation, len(after), w.store.generation.Load())
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

func FuzzReplay(f *testing.F) {
	l := benchLock()
	l.Ancestors = []bootid.Process{l.Creator, l.Holder}
	f.Add(journalHeader())
	f.Add(appendPut(nil, &l))
	f.Add(append(journalHeader(), seal(appendPut(newFrame(nil), &l))...))
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, _, end, err := replayText(text); err == nil && end > len(text) {
			t.Errorf("ends at %d of %d", end, len(text))
		}
		locks, err := applied(text)
		if err != nil {
			return
		}
		// What was read is what would be written.
		for name, l := range locks {
			if again, err := applied(appendPut(nil, &l)); err != nil || !reflect.DeepEqual(again[name], l) {
				t.Errorf("%+v became %+v, %v", l, again, err)
			}
		}
	})
}

// TestFirstVersion: records of the version that knew locks made with O_EXCL alone.
func TestFirstVersion(t *testing.T) {
	p := bootid.Process{BootID: bootOne, PID: 10, StartTime: 100, PIDNamespace: 1, NSPID: 10, UID: 1000, Command: "node"}
	process := func(b []byte) []byte {
		b = binary.AppendVarint(appendString(b, p.BootID), int64(p.PID))
		b = binary.AppendUvarint(binary.AppendUvarint(b, p.StartTime), p.PIDNamespace)
		b = binary.AppendUvarint(binary.AppendVarint(b, int64(p.NSPID)), uint64(p.UID))
		return appendString(b, p.Command)
	}
	first := binary.AppendVarint(binary.AppendUvarint(appendString([]byte{opPutFirst}, name), 7), 1_700_000_000)
	first = appendString(process(process(appendString(appendString(first, bootOne), "m1"))), string(verdict.RuleNamed))
	want := Lock{
		Name: name, Kind: verdict.KindCreate, Generation: 7, Made: time.Unix(0, 1_700_000_000), BootID: bootOne, MachineID: "m1",
		Creator: p, Holder: p, Rule: verdict.RuleNamed,
	}
	if locks, err := applied(first); err != nil || !reflect.DeepEqual(locks[name], want) {
		t.Errorf("%+v, %v", locks, err)
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
	path := filepath.Join(w.state, journalName)
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
	if text, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(text, journalHeader()) {
		t.Errorf("its header is not that of this version: %v", err)
	}
}
