//go:build linux

package control

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
)

// FuzzParseCommand: a command has a known word, and its path is clean.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"release x.lock", "force-release a/b.lock\n", "release ", "release ../../etc/passwd",
		"release a b\nrelease c",
		"", " ", "\x00", "compact", "compact now", "log-level debug\n", "log-level"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCommand(text)
		switch {
		case err != nil:
			if c != (command{}) {
				t.Errorf("%q: %+v with %v", text, c, err)
			}
		case !strings.HasPrefix(string(text), c.word):
			t.Errorf("%q: %+v", text, c)
		case c.word == "release" || c.word == "force-release":
			if c.argument == "" || c.argument != path.Clean(c.argument) {
				t.Errorf("%q: %+v", text, c)
			}
		case (c.word == "compact") != (c.argument == "") || c.word != "compact" && c.word != "log-level":
			t.Errorf("%q: %+v", text, c)
		}
	})
}

// TestControlTextIsMadeInPieces: a text is answered piece by piece, is complete if it is read to its end, and is made
// again for a reader that goes back.
func TestControlTextIsMadeInPieces(t *testing.T) {
	var want []byte
	for i := range 10_000 {
		want = fmt.Appendf(want, "line %d\n", i)
	}
	made := 0
	text := &text{pieces: func(yield func([]byte) bool) {
		for _, line := range bytes.SplitAfter(want, []byte("\n")) {
			if made += len(line); !yield(line) {
				return
			}
		}
	}}
	defer text.close()
	var got []byte
	buf := make([]byte, len(want))
	for {
		piece := text.read(uint64(len(got)), buf)
		if got = append(got, piece...); made > len(got)+maxPiece {
			t.Fatalf("%d bytes were made for %d", made, len(got))
		}
		if len(piece) == 0 {
			break
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes of %d", len(got), len(want))
	}
	if piece := text.read(0, buf[:6]); string(piece) != "line 0" {
		t.Errorf("again: %q", piece)
	}
}

// TestControlTextIsReadWithoutGarbage: the text of a million locks is half a GB.
func TestControlTextIsReadWithoutGarbage(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 500)
	text := &text{pieces: func(yield func([]byte) bool) {
		for yield(piece) {
		}
	}}
	defer text.close()
	offset, buf := uint64(0), make([]byte, maxPiece)
	read := func() { offset += uint64(len(text.read(offset, buf))) }
	read()
	if n := testing.AllocsPerRun(1000, read); n > 0 {
		t.Errorf("%.0f allocations a piece", n)
	}
}

// TestNumbersSurviveAnUpgrade: a kernel that was told a node id by an earlier version means the same file.
func TestNumbersSurviveAnUpgrade(t *testing.T) {
	was := map[string]uint64{
		"locks.json": 3, "status": 4, "reclaimed": 5, "ctl": 6, "lock": 7, "wait": 8, "locks": 9, "events": 10, "metrics": 11,
	}
	seen := map[uint64]bool{dirID: true}
	for _, file := range files {
		if number, ok := was[file.name]; ok && number != file.id {
			t.Errorf("%s: number %d, not %d", file.name, file.id, number)
		}
		if seen[file.id] || !Is(file.id) {
			t.Errorf("%s: number %d is taken or not reserved", file.name, file.id)
		}
		seen[file.id] = true
		delete(was, file.name)
	}
	for name := range was {
		t.Errorf("%s is gone", name)
	}
}

// TestNodesSurviveAServer: a later server finds the nodes that the kernel knows at their places, and forgets them.
func TestNodesSurviveAServer(t *testing.T) {
	file, err := handover.New()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := handover.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	d := New(Options{Tables: tables})
	dir := d.nodes.find(tables, waitID, place{waitID, "a"}, unix.S_IFDIR|0o555, 1)
	lock := d.nodes.find(tables, dir.id, place{waitID, "a/b.lock"}, unix.S_IFREG|0o444, 2)
	if again := d.nodes.find(tables, dir.id, lock.place, lock.mode, 3); again != lock {
		t.Error("a second lookup finds another node")
	}
	var rows []*handover.InodeRow
	tables.Inodes.Each(func(row *handover.InodeRow) {
		if row.ID.Load() != 0 {
			rows = append(rows, row)
		}
	})
	d = New(Options{Tables: tables, Nodes: rows})
	got := d.nodes.get(lock.id)
	if got == nil || got.place != lock.place || got.mode != lock.mode || d.waits(lock.id) != "a/b.lock" {
		t.Errorf("%+v, not %+v", got, lock)
	}
	d.Forget(lock.id, 1)
	if d.nodes.get(lock.id) == nil {
		t.Error("it is forgotten though one lookup is left")
	}
	d.Forget(lock.id, 1)
	if d.nodes.get(lock.id) != nil || lock.row.ID.Load() != 0 {
		t.Error("it is not forgotten")
	}
}
