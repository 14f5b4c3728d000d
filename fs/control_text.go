//go:build linux

package fs

import (
	"iter"
	"slices"
	"sync"
)

// controlText is what a control file says to one who opened it, made while it is read: there may be a million locks. Then
// garbage would be what takes longest, and what others wait for.
type controlText struct {
	pieces iter.Seq[[]byte] // each until the next one

	mu    sync.Mutex
	next  func() ([]byte, bool) // nil before the first read
	stop  func()
	from  uint64 // of the text, where held begins, in bytes
	held  []byte
	ended bool
}

// maxPiece is how much is answered at a time, in bytes: to make it keeps others waiting.
const maxPiece = 16 << 10

// said is a text that is there already.
func said(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) { yield(text) }
}

// read returns what is at an offset, up to maxPiece, in buf; nothing at its end. Who goes back sees it made anew.
func (t *controlText) read(offset uint64, buf []byte) []byte {
	buf = buf[:min(len(buf), maxPiece)]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == nil || offset < t.from {
		if t.stop != nil {
			t.stop()
		}
		t.next, t.stop = iter.Pull(t.pieces)
		t.from, t.held, t.ended = 0, t.held[:0], false
	}
	for {
		if past := min(offset-t.from, uint64(len(t.held))); past > 0 {
			t.from, t.held = t.from+past, slices.Delete(t.held, 0, int(past))
		}
		if t.ended || t.from == offset && len(t.held) >= len(buf) {
			break
		}
		piece, more := t.next()
		t.held, t.ended = append(t.held, piece...), !more
	}
	if t.from < offset {
		return nil
	}
	return buf[:copy(buf, t.held)]
}

// close frees what a text that was read to its middle holds.
func (t *controlText) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop != nil {
		t.stop()
	}
}
