//go:build linux

package integration

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPayloads: whatever a program writes into its lock, its bytes stay as they are while it
// lives, and are kept aside when it is killed.
func TestPayloads(t *testing.T) {
	m := mountOver(t, t.TempDir())
	other := newLocker(t)
	for name, payload := range map[string][]byte{
		"0 bytes": {}, "1 byte": {'x'}, "white space": []byte(" \n"), "a NUL": {0},
		"100 MiB": bytes.Repeat([]byte("0123456789abcde\n"), 100<<20/16),
		"binary":  {0, 1, 2, 0xff, 0xfe, '\n', 0x80}, "invalid UTF-8": []byte("123\xff\n"),
		"a pid of 0": []byte("0\n"), "a pid of -1": []byte("-1\n"), "a pid of 2^63": []byte("9223372036854775808\n"),
		"an object with a pid of 0": []byte(`{"pid":0}`), "with a pid of -1": []byte(`{"pid":-1}`), "with a pid of 2^63": []byte(`{"pid":9223372036854775808}`),
		"duplicate keys":        []byte(`{"pid":1,"pid":2,"pid":0}`),
		"deep JSON":             []byte(`{"pid":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`),
		"deeper JSON":           []byte(strings.Repeat(`{"pid":`, 100000) + "1" + strings.Repeat("}", 100000)),
		"pid 1":                 []byte("1\n"),
		"a first line of 4 KiB": append(bytes.Repeat([]byte("1"), 4096), '\n'),
	} {
		t.Run(name, func(t *testing.T) {
			source := filepath.Join(t.TempDir(), "source")
			if err := os.WriteFile(source, payload, 0o644); err != nil {
				t.Fatal(err)
			}
			holder := newLocker(t)
			lock := m.path("x.lock")
			holder.must("ok", "keep", lock, source)
			if l := m.locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.pid() {
				t.Errorf("%+v", l)
			}
			other.must("EEXIST", "take", lock)
			other.must("EBUSY", "remove", lock)
			other.must("EBUSY", "truncate", lock)
			if text, err := os.ReadFile(lock); err != nil || !bytes.Equal(text, payload) {
				t.Errorf("%d bytes, %v", len(text), err)
			}
			before := reclaimedFiles(t, m)
			holder.kill()
			eventually(t, "it is free", func() bool { return other.do("take", lock) == "ok" })
			other.must("ok", "remove", lock)
			after := reclaimedFiles(t, m)
			if len(payload) == 0 {
				if len(after) != len(before) {
					t.Error("nothing was kept")
				}
				return
			}
			if len(after) != len(before)+1 {
				t.Fatalf("%d files were kept, then %d", len(before), len(after))
			}
			if text, err := os.ReadFile(after[len(after)-1]); err != nil || !bytes.Equal(text, payload) {
				t.Errorf("kept %d bytes, %v", len(text), err)
			}
		})
	}
}

// reclaimedFiles are those kept of the locks that were removed, the oldest first.
func reclaimedFiles(t *testing.T, m *mount) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(m.stateDir, "reclaimed", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}
