// Package mutant is for tests only: it puts a fault into a source file of package lockstore when a program or a
// test is built, so that a test of tests can show that they find it.
package mutant

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Mutant is a file in which a rule is left out or turned round.
type Mutant struct {
	File    string // relative to the directory of package lockstore
	Rule    string // the text that is replaced; it is in the file once
	Instead string
}

// Faults are faults of a whole store, by what a store with one does.
var Faults = map[string]Mutant{
	"takes live locks for stale": {"judge.go",
		"j := verdict.Judgment{Verdict: verdict.Live,", "j := verdict.Judgment{Verdict: verdict.Stale,"},
	"takes the dead for living":      {"judge.go", "return !ended\n", "return !ended || true\n"},
	"forgets all locks in a restart": {"recover.go", "c.locks[l.Name] = r\n", "r.gone = true\n"},
	"lets everybody remove a lock":   {"guard.go", "if r == nil || attempt.bytes &&", "if true || attempt.bytes &&"},
}

// Overlay writes the mutant and returns the file that go build and go test take as -overlay. Lockstore is the
// directory of package lockstore.
func (m Mutant) Overlay(t testing.TB, lockstore string) string {
	t.Helper()
	original, err := filepath.Abs(filepath.Join(lockstore, m.File))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(original)
	if n := strings.Count(string(text), m.Rule); err != nil || n != 1 {
		t.Fatalf("%s has %q %d times: %v", m.File, m.Rule, n, err)
	}
	dir := t.TempDir()
	mutated, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{original: mutated}})
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{
		mutated: strings.Replace(string(text), m.Rule, m.Instead, 1), overlay: string(replace),
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return overlay
}
