//go:build linux

package harness

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Eventually waits until a condition holds that another process brings about, and fails the test after 20 s. The
// text completes "waited in vain until".
func Eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Signal sends a signal to one process. It refuses pids of 0 and below, which kill(2) takes for whole groups of
// processes, among them the tests' own.
func Signal(t *testing.T, pid int, what unix.Signal) {
	t.Helper()
	if pid <= 0 {
		t.Fatalf("there is no process to send %v to", what)
	}
	if err := unix.Kill(pid, what); err != nil {
		t.Fatal(err)
	}
}

// Kill sends a signal to a process and returns once the process has ended.
func Kill(t *testing.T, pid int, by unix.Signal) {
	t.Helper()
	Signal(t, pid, by)
	Eventually(t, "the process that was signalled has ended", func() bool { return HasEnded(pid) })
}

// Exists reports whether there is something at path.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// A Buffer collects the output of a process. Several goroutines may use it.
type Buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
