package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"latchfs/lockstore/authority"
)

// framesWindow is how much of a journal is in memory while it is read, in bytes: at least two frames.
const framesWindow = 4 * maxFrame

// frames reads the frames of a journal, one after another.
type frames struct {
	journal io.ReaderAt
	size    int64  // of the journal, in bytes
	end     int64  // of the last frame that was returned, in bytes
	window  []byte // the part of the journal that was read last
	rest    []byte // the part of window that begins at end
	err     error  // what the system said
}

func readFrames(journal io.ReaderAt, size int64) *frames {
	return &frames{journal: journal, size: size, end: int64(headerSize), window: make([]byte, min(size, framesWindow))}
}

// next returns the payload of the next frame, or nil if no whole one follows. It is valid until the next call.
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

// fill reads on until the window is full.
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

// wholeFrame returns the payload of the frame that text begins with, or nil if its end is missing.
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

// locksLeft returns how many locks exist at the end of a journal, not counting renamed ones.
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

// reading is what was found out about a journal when it was read.
type reading struct {
	version    uint32 // of the format
	generation uint64 // the highest that was given out
	end        int64  // of the last whole frame, in bytes; 0 if not even the header is whole
}

// replayer applies records to a replica.
type replayer struct {
	reading
	into     authority.Replica
	interned *interned
}

// replay applies the whole frames of a journal to an emptied replica. It returns ErrNewerFormat, or what the system
// says. It calls progress, which may be nil, with how many bytes of all are done.
func replay(journal io.ReaderAt, size int64, into authority.Replica, progress func(done, all int)) (reading, error) {
	into.Reset(0)
	text := make([]byte, headerSize)
	if n, err := journal.ReadAt(text, 0); err != nil && !errors.Is(err, io.EOF) {
		return reading{}, err
	} else if n < headerSize || string(text[:len(magic)]) != magic ||
		crc32.Checksum(text[:headerSize-4], castagnoli) != binary.LittleEndian.Uint32(text[headerSize-4:]) {
		return reading{}, nil
	}
	r := replayer{into: into, interned: newInterned()}
	r.version = binary.LittleEndian.Uint32(text[len(magic):])
	if r.version > version {
		return reading{}, fmt.Errorf("version %d, this latchfs reads up to %d: %w", r.version, version, ErrNewerFormat)
	}
	// It is faster to read the journal twice than to have the map grow.
	into.Reset(locksLeft(journal, size))
	f := readFrames(journal, size)
	for r.end = f.end; ; r.end = f.end {
		payload := f.next()
		if payload == nil {
			return r.reading, f.err
		}
		if err := r.apply(payload); errors.Is(err, ErrNewerFormat) {
			return reading{}, err
		} else if err != nil {
			return r.reading, nil
		}
		if progress != nil && f.end/maxFrame > r.end/maxFrame {
			progress(int(f.end), int(size))
		}
	}
}

// apply applies the records in payload. An unknown operation was written by a newer version: ErrNewerFormat.
func (r *replayer) apply(payload []byte) error {
	d := decoder{rest: payload, interned: r.interned}
	for len(d.rest) > 0 && d.err == nil {
		switch d.op = d.byte(); d.op {
		case opPut, opPutSecond, opPutFirst:
			if l := d.lock(); d.err == nil {
				r.into.Put(l)
				r.generation = max(r.generation, l.Generation)
			}
		case opDelete:
			if name, generation := d.bytes(), d.uvarint(); d.err == nil {
				r.into.Delete(name, generation)
			}
		case opGeneration:
			r.generation = max(r.generation, d.uvarint())
		case opSettle:
			if name, file := d.settled(); d.err == nil {
				r.into.Settle(name, file)
			}
		case opUnsettle:
			r.into.Unsettle(d.bytes())
		default:
			return fmt.Errorf("operation %d: %w", d.op, ErrNewerFormat)
		}
	}
	return d.err
}

// Ahead is a journal that is read before its state directory is free.
type Ahead struct {
	done chan struct{} // closed when the fields below have their last values
	file os.FileInfo   // nil if the journal could not be read
	read reading
}

// ReadAhead begins to read the journal in a state directory into a replica, for Options.Ahead. The replica is then
// also the one to pass to Recover.
func ReadAhead(dir string, into authority.Replica) *Ahead {
	a := &Ahead{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		// Recover meets every error again and returns it.
		file, err := os.Open(filepath.Join(dir, Name))
		if err != nil {
			return
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return
		}
		if a.read, err = replay(file, info.Size(), into, nil); err == nil {
			a.file = info
		}
	}()
	return a
}

// result waits for the reading, and reports whether what it read is all of a journal as it is now.
func (a *Ahead) result(journal os.FileInfo) (reading, bool) {
	if a == nil {
		return reading{}, false
	}
	<-a.done
	return a.read, a.file != nil && os.SameFile(a.file, journal) && a.file.Size() == journal.Size()
}
