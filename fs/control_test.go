//go:build linux

package fs

import (
	"bytes"
	"fmt"
	"path"
	"strings"
	"testing"
)

// FuzzParseCommand: a command is one of those there are, and names a path without detours.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"release x.lock", "force-release a/b.lock\n", "release ", "release ../../etc/passwd", "release a b\nrelease c",
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

// TestControlTextIsMadeInPieces: a text is answered a piece at a time, whole if it is read to its end, and made anew for who goes back.
func TestControlTextIsMadeInPieces(t *testing.T) {
	var want []byte
	for i := range 10_000 {
		want = fmt.Appendf(want, "line %d\n", i)
	}
	made := 0
	text := &controlText{pieces: func(yield func([]byte) bool) {
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

// TestControlTextIsReadWithoutGarbage: a million locks are half a GB of text.
func TestControlTextIsReadWithoutGarbage(t *testing.T) {
	piece := bytes.Repeat([]byte("x"), 500)
	text := &controlText{pieces: func(yield func([]byte) bool) {
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
