//go:build linux

package locks

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"latchfs/integration/harness"
)

// TestPayloads checks that the bytes that a program writes into its lock, whatever they are, stay unchanged while
// the program lives, and are kept in the state directory once it has been killed.
func TestPayloads(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	other := harness.StartProcess(t)
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
			holder := harness.StartProcess(t)
			lock := m.Path("x.lock")
			holder.Must("ok", "keep", lock, source)
			if l := m.Locks()["x.lock"]; l.Verdict != "live" || l.Holder.PID != holder.PID() {
				t.Errorf("%+v", l)
			}
			other.Must("EEXIST", "take", lock)
			other.Must("EBUSY", "remove", lock)
			other.Must("EBUSY", "truncate", lock)
			if text, err := os.ReadFile(lock); err != nil || !bytes.Equal(text, payload) {
				t.Errorf("%d bytes, %v", len(text), err)
			}
			before := harness.ReclaimedFiles(t, m)
			holder.Kill()
			harness.Eventually(t, "it is free", func() bool { return other.Do("take", lock) == "ok" })
			other.Must("ok", "remove", lock)
			after := harness.ReclaimedFiles(t, m)
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
