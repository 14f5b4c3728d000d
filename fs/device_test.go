//go:build linux

package fs

import (
	"encoding/binary"
	"os"
	"slices"
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

// TestUsersAreServedInTurn: a request of one user that comes after a hundred of another is answered before most of these.
func TestUsersAreServedInTurn(t *testing.T) {
	f, _ := testFS(t)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel := pair[0] // it stays open: what serves the other end ends with this process
	const many = 100
	for n := range uint64(many + 1) {
		request := append(requestOf(opcodeLookup, 1000, n), "name\x00"...)
		if n == many {
			binary.NativeEndian.PutUint32(request[uidAt:], 1001)
		}
		binary.NativeEndian.PutUint32(request, uint32(len(request)))
		binary.NativeEndian.PutUint64(request[nodeAt:], 1)
		if _, err := unix.Write(kernel, request); err != nil {
			t.Fatal(err)
		}
	}
	d := &device{fs: f, fd: pair[1], slow: make(map[uint64]func()), interrupted: make(map[uint64]bool)}
	go func() { _ = d.serve() }()
	var order []uint64
	for answer := make([]byte, minRead); len(order) < many+1; {
		if n, err := unix.Read(kernel, answer); err != nil || n < outHeaderSize {
			t.Fatalf("%d bytes, %v", n, err)
		}
		order = append(order, binary.NativeEndian.Uint64(answer[uniqueAt:]))
	}
	if at := slices.Index(order, many); at > crowdedAfter+2 {
		t.Errorf("it was answered after %d others", at)
	}
}
