//go:build linux

package harness

import (
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WatchInotify watches a path with inotify(7) until the end of the test. An event is "delete NAME", "create NAME" or
// "delete_self NAME".
func WatchInotify(t *testing.T, path string, mask uint32) <-chan string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) // so that Close interrupts Read
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.InotifyAddWatch(fd, path, mask|unix.IN_DONT_FOLLOW); err != nil {
		t.Fatal(err)
	}
	events := make(chan string, 10_000)
	file := os.NewFile(uintptr(fd), "inotify")
	done := make(chan struct{})
	t.Cleanup(func() { file.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 65536)
		for {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
				e := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
				name := strings.TrimRight(string(rest[unix.SizeofInotifyEvent:][:e.Len]), "\x00")
				what := ""
				for bit, word := range map[uint32]string{unix.IN_DELETE: "delete ", unix.IN_DELETE_SELF: "delete_self ", unix.IN_CREATE: "create "} {
					if e.Mask&bit != 0 {
						what += word
					}
				}
				events <- what + name
				rest = rest[unix.SizeofInotifyEvent+int(e.Len):]
			}
		}
	}()
	return events
}

// WaitForInotify waits for an event and returns the events before it.
func WaitForInotify(t *testing.T, events <-chan string, want string) (before []string) {
	t.Helper()
	for {
		select {
		case e := <-events:
			if e == want {
				return before
			}
			before = append(before, e)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not received, but %q", want, before)
		}
	}
}
