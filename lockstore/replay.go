package lockstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// framesWindow is how much of a journal is in memory while it is read, in bytes: two frames at least.
const framesWindow = 4 * maxFrame

// frames reads the frames of a journal, one after another.
type frames struct {
	journal io.ReaderAt
	size    int64  // of the journal, in bytes
	end     int64  // of the last frame that was returned
	window  []byte // what of it was read last
	rest    []byte // the part of window that begins at end
	err     error  // what the system said
}

func readFrames(journal io.ReaderAt, size int64) *frames {
	return &frames{journal: journal, size: size, end: int64(headerSize), window: make([]byte, min(size, framesWindow))}
}

// next is the payload of the next frame, until it is called again; nil if no whole one follows.
func (f *frames) next() []byte {
	payload := wholeFrame(f.rest)
	if payload == nil {
		f.fill()
		if payload = wholeFrame(f.rest); payload == nil {
			return nil
		}
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(f.rest[4:]) {
		return nil
	}
	n := frameHeader + len(payload)
	f.rest = f.rest[n:]
	f.end += int64(n)
	return payload
}

// fill reads on, as far as there is room.
func (f *frames) fill() {
	n := copy(f.window, f.rest)
	from := f.end + int64(n)
	room := f.window[n:]
	more, err := f.journal.ReadAt(room[:min(int64(len(room)), f.size-from)], from)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	f.rest = f.window[:n+more]
}

// wholeFrame is the payload of the frame that text begins with; nil if not all of it is there.
func wholeFrame(text []byte) []byte {
	if len(text) < frameHeader {
		return nil
	}
	length := binary.LittleEndian.Uint32(text)
	if length == 0 || length > maxFrame || int(length) > len(text)-frameHeader {
		return nil
	}
	return text[frameHeader:][:length]
}

// locksLeft is how many locks there are at the end of a journal, but for those that were renamed.
func locksLeft(journal io.ReaderAt, size int64) int {
	n, f := 0, readFrames(journal, size)
	for payload := f.next(); payload != nil; payload = f.next() {
		switch payload[0] {
		case opPut, opPutSecond, opPutFirst:
			n++
		case opDelete:
			n--
		}
	}
	return max(n, 0)
}

// replayed is what a journal says.
type replayed struct {
	locks      map[string]*record // as those of a store that began in 1970
	inOrder    []*record          // the same, and some that are gone, as they were put
	settled    map[string]settledFile
	version    uint32 // of the format
	generation uint64 // the highest that was given out
	end        int64  // of the last whole frame, in bytes; 0 if not even the header is whole
	interned   *interned
}

// newReplayed has room for so many locks.
func newReplayed(locks int) *replayed {
	return &replayed{locks: make(map[string]*record, locks), inOrder: make([]*record, 0, locks), settled: make(map[string]settledFile), interned: newInterned()}
}

// replayJournal applies the whole frames of a journal. It returns ErrNewerFormat, or what the system says. Progress, which
// may be nil, is told how many bytes of all are done.
func replayJournal(journal io.ReaderAt, size int64, progress func(done, all int)) (*replayed, error) {
	header := make([]byte, headerSize)
	if n, err := journal.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	} else if n < headerSize || string(header[:len(journalMagic)]) != journalMagic ||
		crc32.Checksum(header[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(header[headerSize-4:]) {
		return newReplayed(0), nil
	}
	version := binary.LittleEndian.Uint32(header[len(journalMagic):])
	if version > journalVersion {
		return nil, fmt.Errorf("version %d, this latchfs reads up to %d: %w", version, journalVersion, ErrNewerFormat)
	}
	// It is faster to read the journal twice than to have the map grow.
	r, f := newReplayed(locksLeft(journal, size)), readFrames(journal, size)
	r.version = version
	for r.end = f.end; ; r.end = f.end {
		payload := f.next()
		if payload == nil {
			return r, f.err
		}
		if err := r.apply(payload); errors.Is(err, ErrNewerFormat) {
			return nil, err
		} else if err != nil {
			return r, nil
		}
		if progress != nil && f.end/maxFrame > r.end/maxFrame {
			progress(int(f.end), int(size))
		}
	}
}

// apply applies the records in payload. An operation that is not known was written by a newer version: ErrNewerFormat.
func (r *replayed) apply(payload []byte) error {
	d := decoder{rest: payload, interned: r.interned}
	for len(d.rest) > 0 && d.err == nil {
		switch d.op = d.byte(); d.op {
		case opPut, opPutSecond, opPutFirst:
			l := &record{kept: d.lock()}
			if d.err != nil {
				break
			}
			if before := r.locks[l.Name]; before != nil {
				before.gone = true
			}
			r.locks[l.Name] = l
			r.inOrder = append(r.inOrder, l)
			r.generation = max(r.generation, l.Generation)
		case opDelete:
			name, generation := d.bytes(), d.uvarint()
			if l := r.locks[string(name)]; l != nil && d.err == nil && l.Generation == generation {
				delete(r.locks, l.Name)
				l.gone = true
			}
		case opGeneration:
			r.generation = max(r.generation, d.uvarint())
		case opSettle:
			if name, file := d.settled(); d.err == nil {
				r.settled[name] = file
			}
		case opUnsettle:
			delete(r.settled, string(d.bytes()))
		default:
			return fmt.Errorf("operation %d: %w", d.op, ErrNewerFormat)
		}
	}
	return d.err
}

// Ahead is a journal that is read before its state directory is free.
type Ahead struct {
	done     chan struct{} // closed when the fields below are what they will be
	file     os.FileInfo
	replayed *replayed // nil if it could not be read, or was taken
}

// ReadAhead begins to read the journal in a state directory, for Options.Ahead.
func ReadAhead(stateDir string) *Ahead {
	a := &Ahead{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		// Whatever goes wrong is found when the journal is opened.
		file, err := os.Open(filepath.Join(stateDir, journalName))
		if err != nil {
			return
		}
		defer file.Close()
		if a.file, err = file.Stat(); err != nil {
			return
		}
		if r, err := replayJournal(file, a.file.Size(), nil); err == nil {
			a.replayed = r
		}
	}()
	return a
}

// take returns, once, what was read if that is all of a journal as it is now; nil if not.
func (a *Ahead) take(journal os.FileInfo) *replayed {
	if a == nil {
		return nil
	}
	<-a.done
	if a.replayed == nil || !os.SameFile(a.file, journal) || a.file.Size() != journal.Size() {
		return nil
	}
	r := a.replayed
	a.replayed = nil
	return r
}
