package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// writeJournal makes a journal of n locks, every third of which is deleted again, and
// returns its bytes and the state after each frame by its end.
func writeJournal(t *testing.T, n int) (text []byte, states map[int]map[string]authority.Record) {
	t.Helper()
	dir := t.TempDir()
	j, _ := open(t, dir)
	defer j.Close()
	state := make(map[string]authority.Record)
	states = map[int]map[string]authority.Record{int(j.size): maps.Clone(state)}
	for i := range n {
		l := testRecord()
		l.Name, l.Generation = fmt.Sprintf("%d.lock", i), uint64(i+1)
		if generation, err := j.Acquire(context.Background(), l); err != nil || generation != l.Generation {
			t.Fatalf("generation %d, %v", generation, err)
		}
		state[l.Name] = l
		states[int(j.size)] = maps.Clone(state)
		if i%3 == 0 {
			if err := j.Release(context.Background(), l); err != nil {
				t.Fatal(err)
			}
			delete(state, l.Name)
			states[int(j.size)] = maps.Clone(state)
		}
	}
	text, err := os.ReadFile(j.path)
	if err != nil {
		t.Fatal(err)
	}
	return text, states
}

// TestJournalCutAnywhere: whatever the length it is cut to, exactly the whole frames count.
func TestJournalCutAnywhere(t *testing.T) {
	text, states := writeJournal(t, 100)
	want := map[string]authority.Record{}
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
		if !maps.Equal(names(locks), names(want)) {
			t.Fatalf("cut to %d bytes: %v, want %v", length, names(locks), names(want))
		}
		if _, ok := states[end]; !ok && end != 0 {
			t.Fatalf("cut to %d bytes: ends in the middle of a frame, at %d", length, end)
		}
	}
}

// TestLongJournal: a journal that is read in pieces yields all its records.
func TestLongJournal(t *testing.T) {
	const locks = 60_000
	text := header()
	l := testRecord()
	for i := range locks {
		l.Name, l.Generation = fmt.Sprintf("%d.lock", i), uint64(i)
		text = append(text, seal(appendPut(newFrame(nil), &l, l.Name))...)
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
		if name != fmt.Sprintf("%d.lock", r.Generation) || !reflect.DeepEqual(r, l) {
			t.Fatalf("%s: %+v", name, r)
		}
	}
}

// TestJournalFlippedBit: a replay never uses the content of a broken frame.
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
		if end > at || end != 0 && !ok || end != 0 && !maps.Equal(names(locks), state) {
			t.Fatalf("bit %d of byte %d: %v up to %d", bit%8, at, names(locks), end)
		}
		broken[at] = text[at]
	}
}

func replayText(text []byte) (locks map[string]authority.Record, generation uint64, end int, err error) {
	c := &replica{}
	r, err := replay(bytes.NewReader(text), int64(len(text)), c, nil)
	if err != nil {
		return nil, 0, 0, err
	}
	return c.locks, r.generation, int(r.end), nil
}

func applied(payload []byte) (map[string]authority.Record, error) {
	r := replayer{into: &replica{}, interned: newInterned()}
	r.into.Reset(0)
	err := r.apply(payload)
	return r.into.(*replica).locks, err
}

func names(locks map[string]authority.Record) map[string]uint64 {
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
	if err := os.WriteFile(filepath.Join(dir, Name), append(text, "torn"...), 0o600); err != nil {
		t.Fatal(err)
	}
	j, said := open(t, dir)
	if len(said.locks) != 2 || j.generation != 4 {
		t.Errorf("%v, generation %d", names(said.locks), j.generation)
	}
	if _, err := j.Acquire(context.Background(), testRecord()); err != nil {
		t.Fatal(err)
	}
	j.Close()
	j, said = open(t, dir)
	j.Close()
	if len(said.locks) != 3 {
		t.Errorf("%v", names(said.locks))
	}
	if aside, _ := filepath.Glob(filepath.Join(dir, "journal.cut-*")); len(aside) != 1 {
		t.Errorf("kept %v", aside)
	}
}

// TestReadAhead: the records read ahead are used if they are the whole journal.
func TestReadAhead(t *testing.T) {
	dir := t.TempDir()
	j, _ := open(t, dir)
	defer j.Close()
	if _, err := j.Acquire(context.Background(), testRecord()); err != nil {
		t.Fatal(err)
	}
	into := &replica{}
	ahead, stale := ReadAhead(dir, into), ReadAhead(dir, &replica{})
	<-ahead.done
	<-stale.done
	info, err := os.Stat(j.path)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := ahead.result(info); !ok || len(into.locks) != 1 {
		t.Errorf("%v, %v", ok, into.locks)
	}
	l := testRecord()
	l.Name = "after.lock"
	if _, err := j.Acquire(context.Background(), l); err != nil {
		t.Fatal(err)
	}
	if info, err = os.Stat(j.path); err != nil {
		t.Fatal(err)
	}
	if _, ok := stale.result(info); ok {
		t.Error("an older journal was taken")
	}
	if err := j.Compact(context.Background(), into); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(j.path, info.Size()); err != nil {
		t.Fatal(err)
	}
	other := ReadAhead(dir, &replica{})
	if _, ok := other.result(info); ok {
		t.Error("another file was taken for the journal")
	}
	if _, ok := ReadAhead(t.TempDir(), &replica{}).result(info); ok {
		t.Error("a journal that is not there was taken")
	}
}

func FuzzReplay(f *testing.F) {
	l := testRecord()
	l.Ancestors = []bootid.Process{*l.Creator, *l.Holder}
	f.Add(header())
	f.Add(appendPut(nil, &l, l.Name))
	f.Add(append(header(), seal(appendPut(newFrame(nil), &l, l.Name))...))
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
			if again, err := applied(appendPut(nil, &l, l.Name)); err != nil || !reflect.DeepEqual(again[name], l) {
				t.Errorf("%+v became %+v, %v", l, again, err)
			}
		}
	})
}

// TestFirstVersion: records of the version that knew locks made with O_EXCL alone.
func TestFirstVersion(t *testing.T) {
	const bootOf = "11111111-2222-4333-8444-555555555555"
	p := bootid.Process{BootID: bootOf, PID: 10, StartTime: 100, PIDNamespace: 1, NSPID: 10, UID: 1000, Command: "node"}
	process := func(b []byte) []byte {
		b = binary.AppendVarint(appendString(b, p.BootID), int64(p.PID))
		b = binary.AppendUvarint(binary.AppendUvarint(b, p.StartTime), p.PIDNamespace)
		b = binary.AppendUvarint(binary.AppendVarint(b, int64(p.NSPID)), uint64(p.UID))
		return appendString(b, p.Command)
	}
	first := binary.AppendVarint(binary.AppendUvarint(appendString([]byte{opPutFirst}, "a.lock"), 7), 1_700_000_000)
	first = appendString(process(process(appendString(appendString(first, bootOf), "m1"))), string(verdict.RuleNamed))
	want := authority.Record{
		Name: "a.lock", Kind: verdict.KindCreate, Generation: 7, Made: time.Unix(0, 1_700_000_000), Origin: &authority.Origin{BootID: bootOf, MachineID: "m1"},
		Creator: &p, Holder: &p, Rule: verdict.RuleNamed,
	}
	if locks, err := applied(first); err != nil || !reflect.DeepEqual(locks["a.lock"], want) {
		t.Errorf("%+v, %v", locks, err)
	}
}
