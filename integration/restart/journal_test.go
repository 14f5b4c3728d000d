//go:build linux

package restart

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"latchfs/integration/harness"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFullDisk checks that an acquisition fails with ENOSPC on a full disk, that existing locks stay and can be
// released, and that mounting again works.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	disk := harness.MountTmpfs(t, 0, "size=512k")
	m := harness.MountOver(t, t.TempDir())
	m.Unmount()
	m.StateDir = filepath.Join(disk, "state")
	m.Start()
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("first.lock"))
	filler, err := os.Create(filepath.Join(disk, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := filler.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	filler.Close()
	held := 0
	for ; ; held++ {
		answer := other.Do("take", m.Path(fmt.Sprintf("%d.lock", held)))
		if answer == "ENOSPC" {
			break
		}
		if answer != "ok" || held > 10_000 {
			t.Fatalf("lock %d: %s", held, answer)
		}
	}
	if harness.Exists(m.Path(fmt.Sprintf("%d.lock", held))) {
		t.Error("the lock that could not be taken has a file")
	}
	if got := len(m.Locks()); got != held+1 {
		t.Errorf("%d locks are held, not %d", got, held+1)
	}
	m.Kill()
	m.Start()
	if got := len(m.Locks()); got != held+1 {
		t.Errorf("%d locks are held after a restart, not %d", got, held+1)
	}
	for i := range held {
		other.Must("ok", "remove", m.Path(fmt.Sprintf("%d.lock", i)))
	}
	holder.Must("ok", "remove", m.Path("first.lock"))
	if err := os.Remove(filler.Name()); err != nil {
		t.Fatal(err)
	}
	holder.Must("ok", "take", m.Path("first.lock"))
	m.Unmount() // before the disk is unmounted
}

// TestCorruptJournal checks that intact records are recovered, that the rest is kept in a file of its own, and
// that the mount works.
func TestCorruptJournal(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("whole.lock"))
	m.Kill()
	journal, err := os.OpenFile(filepath.Join(m.StateDir, "journal"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.WriteString("this is no frame, but it is kept"); err != nil {
		t.Fatal(err)
	}
	journal.Close()
	m.Start()
	other.Must("EBUSY", "remove", m.Path("whole.lock"))
	aside, err := filepath.Glob(filepath.Join(m.StateDir, "journal.cut-*"))
	if err != nil || len(aside) != 1 {
		t.Fatalf("%v %v", aside, err)
	}
	if text, err := os.ReadFile(aside[0]); err != nil || string(text) != "this is no frame, but it is kept" {
		t.Errorf("%q %v", text, err)
	}
	if len(m.Logged("torn or corrupt tail")) != 1 {
		t.Error("the corrupt tail is not logged")
	}
}

// TestNewerJournal checks that a journal of a newer format is refused and left unchanged.
func TestNewerJournal(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	dir, state := t.TempDir(), t.TempDir()
	header := binary.LittleEndian.AppendUint32([]byte("latchfs\x00"), 1000)
	header = binary.LittleEndian.AppendUint32(header, crc32.Checksum(header, crc32.MakeTable(crc32.Castagnoli)))
	path := filepath.Join(state, "journal")
	if err := os.WriteFile(path, header, 0o600); err != nil {
		t.Fatal(err)
	}
	code, said := harness.RunLatchfs(t, nil, "mount", "--state-dir", state, dir)
	if code != 8 || !strings.Contains(said, "newer format") {
		t.Errorf("exit code %d: %s", code, said)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, header) {
		t.Errorf("%q %v", text, err)
	}
}
