//go:build linux

package channel

import (
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// absent returns the number of pages of b that are not in memory.
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

// TestBuffersAreResident: buffers for requests are in memory before the first read.
func TestBuffersAreResident(t *testing.T) {
	s := &Server{}
	r := s.newReader(nil)
	defer s.closeReader(r)
	if absent(t, r.out) == 0 {
		t.Fatal("fresh memory is resident: this test proves nothing")
	}
	if n := absent(t, r.in); n != 0 {
		t.Errorf("%d pages of a buffer are not in memory", n)
	}
}

// fakeHandler answers LOOKUP and panics at all other requests.
type fakeHandler struct {
	Handler
	panicked []uint64
	stack    string
}

func (*fakeHandler) String() string { return "fake" }
func (*fakeHandler) Lookup(<-chan struct{}, *fuse.InHeader, string, *fuse.EntryOut) fuse.Status {
	return fuse.ENOENT
}
func (*fakeHandler) Forget(uint64, uint64) { panic("forget") }
func (*fakeHandler) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	panic("mkdir")
}
func (*fakeHandler) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { panic("unlink") }
func (*fakeHandler) Poll(*PollIn) (uint32, fuse.Status)                         { panic("poll") }
func (h *fakeHandler) Refuses(unique uint64) bool                               { return unique == 99 }
func (h *fakeHandler) Panicked(unique uint64, problem any, stack []byte) {
	h.panicked, h.stack = append(h.panicked, unique), string(stack)
}

// complete sets the length of a request.
func complete(request []byte) []byte {
	binary.NativeEndian.PutUint32(request, uint32(len(request)))
	binary.NativeEndian.PutUint64(request[nodeAt:], 1)
	return request
}

// TestUsersAreServedInTurn: a user's request that arrives after a hundred requests of another user is answered before
// most of them.
func TestUsersAreServedInTurn(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	kernel := pair[0] // it stays open: the server of the other end ends with this process
	const many = 100
	for n := range uint64(many + 1) {
		request := append(requestOf(opcodeLookup, 1000, n+1000), "name\x00"...)
		if n == many {
			binary.NativeEndian.PutUint32(request[uidAt:], 1001)
		}
		if _, err := unix.Write(kernel, complete(request)); err != nil {
			t.Fatal(err)
		}
	}
	s := newServer(pair[1], &fakeHandler{}, logrus.New())
	s.maxHelps = 0
	go func() { _ = s.Serve() }()
	var order []uint64
	for answer := make([]byte, minRead); len(order) < many+1; {
		if n, err := unix.Read(kernel, answer); err != nil || n < outHeaderSize {
			t.Fatalf("%d bytes, %v", n, err)
		}
		order = append(order, binary.NativeEndian.Uint64(answer[uniqueAt:]))
	}
	if at := slices.Index(order, many+1000); at > crowdedAfter+2 {
		t.Errorf("it was answered after %d others", at)
	}
}

// TestPanicIsAnswered: a panic in any kind of request is reported and answered EIO, unless that kind is not answered.
func TestPanicIsAnswered(t *testing.T) {
	h := &fakeHandler{}
	init := complete(append(requestOf(26, 0, 1), make([]byte, unsafe.Sizeof(fuse.InitIn{})-bodyAt)...))
	binary.NativeEndian.PutUint32(init[bodyAt:], 7)    // major
	binary.NativeEndian.PutUint32(init[bodyAt+4:], 40) // minor
	s, _, err := New(-1, init, h, fuse.MountOptions{}, logrus.New())
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, minRead)
	for _, c := range []struct {
		name     string
		opcode   uint32
		body     int // bytes
		answered bool
		report   string // what the stack must contain
	}{
		{"parsed here", opcodeUnlink, 2, true, "Unlink"},
		{"parsed by go-fuse", 9, int(unsafe.Sizeof(fuse.MkdirIn{})) - bodyAt + 2, true, "Mkdir"},
		{"FORGET", opcodeForget, 8, false, "Forget"},
		{"BATCH_FORGET", opcodeBatchForget, 8 + 16, false, "Forget"},
		{"POLL", opcodePoll, int(unsafe.Sizeof(PollIn{})) - bodyAt, true, "Poll"},
		{"a method that is missing", opcodeOpen, int(unsafe.Sizeof(fuse.OpenIn{})) - bodyAt, true, "Open"},
	} {
		request := complete(append(requestOf(c.opcode, 0, uint64(c.opcode)), make([]byte, c.body)...))
		if c.opcode == opcodeBatchForget {
			binary.NativeEndian.PutUint32(request[bodyAt:], 1)
		}
		h.panicked, h.stack = nil, ""
		n := s.carryOut(request, out)
		if !slices.Equal(h.panicked, []uint64{uint64(c.opcode)}) || !strings.Contains(h.stack, c.report) {
			t.Errorf("%s: panics of %v are reported, with the stack\n%s", c.name, h.panicked, h.stack)
		}
		if errno := -int32(binary.NativeEndian.Uint32(out[4:])); (n != 0) != c.answered || n != 0 && errno != int32(unix.EIO) {
			t.Errorf("%s: an answer of %d bytes, errno %d", c.name, n, errno)
		}
	}
	h.panicked = nil
	if n := s.carryOut(complete(requestOf(opcodeUnlink, 0, 99)), out); n != outHeaderSize || h.panicked != nil {
		t.Error("a request that is to be refused was carried out")
	}
}
