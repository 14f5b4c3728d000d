//go:build linux

package integration

import (
	"os"
	"strings"
	"testing"
)

// TestPassthroughRequests: reads and writes of an ordinary file do not visit latchfs, nor
// does the kernel ask for anything before each of them.
func TestPassthroughRequests(t *testing.T) {
	m := mountOver(t, t.TempDir(), "--log-level", "trace")
	if strings.Contains(m.allLog(), `"passthrough":false`) {
		t.Skip("this kernel's FUSE has no passthrough (before 6.9)")
	}
	file, err := os.Create(m.path("f"))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	for range 200 {
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		if _, err := file.ReadAt(block, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the file is closed", func() bool { return strings.Contains(m.allLog(), ": RELEASE") })
	if requests := strings.Count(m.allLog(), `"msg":"rx `); requests > 12 {
		t.Errorf("%d requests for 200 writes and 200 reads", requests)
	}
	for _, request := range []string{": READ ", ": WRITE "} {
		if strings.Contains(m.allLog(), request) {
			t.Errorf("there was a%s", request)
		}
	}
}
