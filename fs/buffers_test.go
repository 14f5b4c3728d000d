//go:build linux

package fs

import (
	"os"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
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

// TestBuffersAreResident: what go-fuse reads requests into is in memory before it does.
func TestBuffersAreResident(t *testing.T) {
	server := &fuse.Server{}
	const size = maxWrite + 80
	pool := bufferPool(server)
	if pool == nil {
		t.Fatal("go-fuse keeps its buffers elsewhere")
	}
	pool.New = func() any { return make([]byte, size) }
	left := 0
	for range 64 {
		left += absent(t, pool.Get().([]byte))
	}
	if left == 0 {
		t.Fatal("fresh memory is in memory: this test would not notice")
	}
	if !keepResident(server) {
		t.Fatal("go-fuse makes its buffers elsewhere")
	}
	for range 64 {
		if n := absent(t, pool.Get().([]byte)); n != 0 {
			t.Errorf("%d pages of a buffer are not in memory", n)
		}
	}
}
