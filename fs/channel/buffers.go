//go:build linux

package channel

import (
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// MaxWrite is the data of the largest request in bytes that Linux sends (since 4.20).
	MaxWrite = 1 << 20
	// minRead is the smallest buffer in bytes that the kernel passes a request to (FUSE_MIN_READ_BUFFER).
	minRead = 8192
	// headSpace is the most that a request or an answer has beside its data, in bytes.
	headSpace = minRead
	// maxSmall is the longest request that is copied, in bytes.
	maxSmall = 4096
	// spareReaders bounds the readers that are kept for later: unmapping their memory interrupts all processors.
	spareReaders = 2
)

// reader holds the buffers of a goroutine that reads requests.
type reader struct {
	in       []byte      // requests are read into it; guarded by Server.mu while another goroutine may take it
	small    []byte      // a copy of a short request, so that in can be taken while the request is carried out
	out      []byte      // the answer
	large    atomic.Bool // the request that is carried out is in in, not in small
	deferred [][]byte    // requests that were put off
	caller   uint32      // the thread that sent the last request
}

// newReader returns a reader that reads into a buffer, or into a new one if in is nil.
func (s *Server) newReader(in []byte) *reader {
	if in == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := len(s.spare); n > 0 {
			r := s.spare[n-1]
			s.spare = s.spare[:n-1]
			return r
		}
		in = newBuffer(unix.MAP_POPULATE)
	}
	return &reader{in: in, small: make([]byte, maxSmall), out: newBuffer(0)}
}

// newBuffer returns memory for the largest request or answer. Buffers for requests are populated (MAP_POPULATE): if a
// server is killed while it reads into a page that is absent, the kernel cannot bring the page in for the dying process
// and answers the request EIO (fuse_dev_do_read).
func newBuffer(populate int) []byte {
	flags := unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | populate
	b, err := unix.Mmap(-1, 0, MaxWrite+headSpace, unix.PROT_READ|unix.PROT_WRITE, flags)
	if err != nil {
		panic(fmt.Sprintf("no memory for requests: %v", err))
	}
	return b
}

// closeReader keeps a reader for later, or frees its memory.
func (s *Server) closeReader(r *reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead == r {
		s.lead = nil // its buffer must not be taken any more
	}
	if r.in != nil && len(s.spare) < spareReaders && !s.ended.Load() {
		r.large.Store(false)
		r.caller = 0
		s.spare = append(s.spare, r)
		return
	}
	// They are mappings, so this cannot fail.
	if r.in != nil {
		_ = unix.Munmap(r.in)
	}
	_ = unix.Munmap(r.out)
}

// takeBuffer takes the buffer of the last leader. It returns nil if that leader is carrying out the request in it.
func (s *Server) takeBuffer() (in []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lead != nil && !s.lead.large.Load() {
		in, s.lead.in = s.lead.in, nil
	}
	return in
}

// take returns the request of n bytes that was read. A short one is copied, which frees the buffer for the next one.
func (r *reader) take(n int) []byte {
	if n > len(r.small) {
		r.large.Store(true)
		return r.in[:n]
	}
	r.large.Store(false)
	return r.small[:copy(r.small, r.in[:n])]
}
