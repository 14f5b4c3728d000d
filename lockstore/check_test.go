package lockstore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"latchfs/lockstore/journal"
)

// TestCheckJournal: a journal is sound as far as a store that opens it would keep it, and is not changed.
func TestCheckJournal(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.take("a.lock", p, "10\n")
	w.take("b.lock", p, "10\n")
	path := filepath.Join(w.state, journal.Name)
	sound, err := CheckJournal(w.state, nil)
	if err != nil || len(sound.Locks) != 2 || sound.Locks[0].Name != "a.lock" || sound.Generation != 2 || sound.Size != sound.Sound {
		t.Errorf("%+v %v", sound, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		text  []byte
		locks int
		err   error
	}{
		{"torn", whole[:len(whole)-1], 2, ErrNotSound},
		{"followed by other bytes", append(whole[:len(whole):len(whole)], 1, 2, 3), 2, ErrNotSound},
		{"something else", []byte("hello"), 0, ErrNotSound},
		{"empty", nil, 0, ErrNotSound},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			copied := filepath.Join(dir, journal.Name)
			if err := os.WriteFile(copied, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := CheckJournal(dir, nil)
			if !errors.Is(err, c.err) || len(r.Locks) > c.locks {
				t.Errorf("%+v %v", r, err)
			}
			if after, err := os.ReadFile(copied); err != nil || string(after) != string(c.text) {
				t.Errorf("it was changed: %v", err)
			}
		})
	}
	if _, err := CheckJournal(t.TempDir(), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of a directory without one: %v", err)
	}
}
