//go:build linux

package control

import (
	"iter"
	"slices"
	"sync"
)

// text is the text of an open control file. It is made piece by piece while it is read: for a million locks it is half a
// GB, and other requests would wait for the garbage collector.
type text struct {
	pieces iter.Seq[[]byte] // a piece is valid until the next one is made

	mu    sync.Mutex
	next  func() ([]byte, bool) // nil before the first read
	stop  func()
	from  uint64 // the offset of held in the text, in bytes
	held  []byte // what was made and is not skipped
	ended bool   // there are no more pieces
}

// maxPiece is the longest answer to a read, in bytes. Other requests wait while it is made.
const maxPiece = 16 << 10

// whole returns a text of one piece.
func whole(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) { yield(text) }
}

// read copies up to maxPiece bytes of the text from an offset to buf and returns them. It returns none at the end of the
// text. If a reader goes back, the text is made again.
func (t *text) read(offset uint64, buf []byte) []byte {
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

// close ends a text that was not read to its end.
func (t *text) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stop != nil {
		t.stop()
	}
}
