//go:build linux

package harness

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A Lock is an entry of latchfs ls --json.
type Lock struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	Made       time.Time `json:"made"`
	Verdict    string    `json:"verdict"`
	Reason     string    `json:"reason"`
	Kind       string    `json:"kind"`
	Rule       string    `json:"rule"`
	Evidence   string    `json:"evidence"`
	Payload    string    `json:"payload"`
	Holder     struct {
		PID int    `json:"pid"`
		UID uint32 `json:"uid"`
	} `json:"holder"`
	ReclaimedAt *time.Time `json:"reclaimed_at"`
	LockedBy    []struct {
		Type, Access string
		PID          int
	} `json:"locked_by"`
}

// Locks returns the locks that exist, by name.
func (m *Mount) Locks() map[string]Lock {
	m.T.Helper()
	locks := make(map[string]Lock)
	for _, l := range m.List() {
		if l.ReclaimedAt == nil && l.Verdict != "settled" {
			locks[l.Name] = l
		}
	}
	return locks
}

// List returns all entries of latchfs ls --json, including locks that were removed and files that are no locks.
func (m *Mount) List() []Lock {
	m.T.Helper()
	out, err := exec.Command(Latchfs, "ls", "--json", m.Dir).Output()
	if err != nil {
		m.T.Fatalf("latchfs ls: %v", err)
	}
	var list []Lock
	if err := json.Unmarshal(out, &list); err != nil {
		m.T.Fatal(err)
	}
	return list
}

// Verdicts returns the entries of all files that exist at lock names, by name: the locks and, with the verdict
// "settled", files that are no locks.
func (m *Mount) Verdicts() map[string]Lock {
	m.T.Helper()
	verdicts := make(map[string]Lock)
	for _, l := range m.List() {
		if l.ReclaimedAt == nil {
			verdicts[l.Name] = l
		}
	}
	return verdicts
}

// ReclaimedFiles returns the files in which the mount keeps the content of locks that it has removed, the oldest
// first.
func ReclaimedFiles(t *testing.T, m *Mount) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.StateDir, "reclaimed", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
