//go:build linux

package fs

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// absent counts the pages of b that are not in memory.
func absent(t *testing.T, b []byte) (pages int) {
	t.Helper()
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(&b[0])) &^ (page - 1)
	in := make([]byte, (uintptr(unsafe.Pointer(&b[len(b)-1]))-start)/page+1)
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, start, uintptr(len(in))*page, uintptr(unsafe.Pointer(&in[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, state := range in {
		if state&1 == 0 {
			pages++
		}
	}
	return pages
}

// TestBuffersAreResident: what requests are read into is in memory before.
func TestBuffersAreResident(t *testing.T) {
	d := &device{}
	r := d.newReader(nil)
	defer d.closeReader(r)
	if absent(t, r.out) == 0 {
		t.Fatal("fresh memory is in memory: this test would not notice")
	}
	if n := absent(t, r.in); n != 0 {
		t.Errorf("%d pages of a buffer are not in memory", n)
	}
}
