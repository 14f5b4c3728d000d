// Package journal is the authority of one mount: a file in the state directory that survives latchfs.
//
// The file is a header, then frames. A frame is the length of its payload, the CRC-32C of the payload (both 32
// bits, little-endian), and the payload: one or more records (record.go).
//
// The file has to survive the death of latchfs. What write(2) has written is in the page cache and stays there
// when the writer is killed, so nothing is synced on the path of a caller. When the machine crashes with unsynced
// frames, the records of locks are lost whose holders are dead too; their files are then judged like any file
// without a record.
//
// Space for every release is reserved when a lock is acquired, a torn tail is kept aside rather than an error, and
// compaction does not hold up appends. No library was found that does all three. The same work, a put and a
// delete of one lock's record, without any sync, takes (go test -bench Journal -count 7 ./lockstore/journal,
// medians of one run, on a 2-core machine and ext4):
//
//	appended with a checksum, as here    4.3 us   1.0
//	tidwall/wal 1.2.1                    9.6 us   2.2
//	bbolt 1.5.0 with NoSync             24.9 us   5.8
package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/lockstore/authority"
)

// Name is the name of the journal in its state directory.
const Name = "journal"

const (
	magic        = "latchfs\x00"
	version      = 2
	headerSize   = len(magic) + 4 + 4 // magic, version, CRC-32C of both
	frameHeader  = 8
	maxFrame     = 1 << 20
	allocateStep = 64 << 10 // how much space is reserved ahead, in bytes
)

// ErrNewerFormat: the journal was written by a newer latchfs. Use that one.
var ErrNewerFormat = errors.New("journal is of a newer format")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Options are what a Journal needs.
type Options struct {
	// Dir is the state directory, which the caller owns.
	Dir string
	// Ahead is the journal, if it was read ahead; nil if it was not.
	Ahead *Ahead
	// GiveWay frees space on the filesystem and reports whether it could. It may be nil.
	GiveWay func() bool
	Log     logrus.FieldLogger
}

// Journal is an authority.Authority. It never waits for another host, so it ignores contexts and is never
// uncertain.
type Journal struct {
	path    string
	log     logrus.FieldLogger
	ahead   *Ahead
	giveWay func() bool

	compacting sync.Mutex // held for a whole compaction, outside mu
	mu         sync.Mutex // guards the fields below
	file       *os.File
	generation uint64 // the highest that was given out
	size       int64  // end of the last whole frame
	allocated  int64  // space is reserved up to here
	noReserve  bool   // the filesystem cannot reserve space
	reserve    int64  // bytes of frames that would delete every lock there is
	live       int64  // bytes of frames that would put every lock there is
	frame      []byte // scratch
}

// New returns the journal of a state directory. Recover opens it.
func New(o Options) *Journal {
	return &Journal{path: filepath.Join(o.Dir, Name), log: o.Log, ahead: o.Ahead, giveWay: o.GiveWay}
}

func (j *Journal) newPath() string { return j.path + ".new" }

// Recover reads the journal, unless it was read ahead, or makes an empty one. It cuts a torn or corrupt tail off
// behind the last whole frame and keeps it in a file of its own. It returns ErrNewerFormat, or what the system
// says.
func (j *Journal) Recover(_ context.Context, into authority.Replica) error {
	// What an interrupted compaction left; the journal itself is whole.
	if err := os.Remove(j.newPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	j.file = file
	if err := j.recover(into); err != nil {
		file.Close()
		return fmt.Errorf("%s: %w", j.path, err)
	}
	return nil
}

func (j *Journal) recover(into authority.Replica) error {
	info, err := j.file.Stat()
	if err != nil {
		return err
	}
	read, ok := j.ahead.result(info)
	if !ok {
		if read, err = replay(j.file, info.Size(), into, nil); err != nil {
			return err
		}
	}
	if read.end < info.Size() {
		if err := j.cut(read.end, info.Size()); err != nil {
			return err
		}
	}
	j.size, j.generation = max(read.end, int64(headerSize)), read.generation
	if read.version != version {
		// It is new, or from here on is written in this version.
		if _, err := j.file.WriteAt(header(), 0); err != nil {
			return authority.NoSpace(err)
		}
	}
	j.allocated = j.size
	_ = into.Records(func(r authority.Record) error { j.count(&r, r.Name, 1); return nil })
	for name, file := range into.SettledFiles() {
		j.live += settledSize(name, file)
	}
	if err := j.extend(j.reserve); err != nil {
		j.log.WithError(err).Warn("no space is left for new locks; existing locks can still be released")
	}
	return nil
}

// cut moves the bytes behind the last whole frame to a file of their own.
func (j *Journal) cut(end, size int64) error {
	aside := fmt.Sprintf("%s.cut-%d", j.path, time.Now().UnixNano())
	if err := copyOut(aside, io.NewSectionReader(j.file, end, size-end)); err != nil {
		return fmt.Errorf("keep its corrupt tail: %w", err)
	}
	if err := j.file.Truncate(end); err != nil {
		return err
	}
	j.log.WithFields(logrus.Fields{"journal": j.path, "offset": end, "bytes": size - end, "kept": aside}).
		Warn("cut a torn or corrupt tail off the journal; locks recorded only there are judged by their files")
	return nil
}

// copyOut writes a reader's bytes to a new file.
func copyOut(path string, from io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}

func header() []byte {
	b := append([]byte(magic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(magic):], version)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// Acquire records a new lock and returns its generation, or ErrNoSpace rather than take the space that releases
// need.
func (j *Journal) Acquire(_ context.Context, r authority.Record) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.generation++
	r.Generation = j.generation
	j.count(&r, r.Name, 1)
	if err := j.append(appendPut(newFrame(j.frame), &r, r.Name), j.reserve); err != nil {
		j.count(&r, r.Name, -1)
		return 0, err
	}
	return r.Generation, nil
}

// Next returns a generation that no lock has. Like a lock's, it is journaled by the next record or compaction.
func (j *Journal) Next(context.Context) (uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.generation++
	return j.generation, nil
}

// Update records that a lock is as described.
func (j *Journal) Update(_ context.Context, r authority.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.append(appendPut(newFrame(j.frame), &r, r.Name), j.reserve)
}

// Release records that a lock is gone. Acquire reserved the space for it.
func (j *Journal) Release(_ context.Context, r authority.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count(&r, r.Name, -1)
	return j.append(appendDelete(newFrame(j.frame), r.Name, r.Generation), 0)
}

// Move records in one frame that a lock has another name.
func (j *Journal) Move(_ context.Context, m authority.Move) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	frame := appendPut(appendDelete(newFrame(j.frame), m.Name, m.Generation), &m.Record, m.To)
	j.count(&m.Record, m.Name, -1)
	j.count(&m.Record, m.To, 1)
	err := j.append(frame, j.reserve)
	if err != nil {
		j.count(&m.Record, m.To, -1)
		j.count(&m.Record, m.Name, 1)
	}
	return err
}

// MoveTree records each move in a frame of its own. It goes on after an error.
func (j *Journal) MoveTree(ctx context.Context, moves []authority.Move) error {
	var errs []error
	for _, m := range moves {
		if err := j.Move(ctx, m); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.To, err))
		}
	}
	return errors.Join(errs...)
}

// Settle records that the file of a name is no lock.
func (j *Journal) Settle(_ context.Context, name string, file authority.Settled) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(appendSettle(newFrame(j.frame), name, file), j.reserve); err != nil {
		return err
	}
	j.live += settledSize(name, file)
	return nil
}

// Unsettle records that what Settle recorded of a name is no longer so.
func (j *Journal) Unsettle(_ context.Context, name string, file authority.Settled) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live -= settledSize(name, file)
	return j.append(appendUnsettle(newFrame(j.frame), name), j.reserve)
}

// Sync makes what was appended survive a crash of the machine.
func (j *Journal) Sync(context.Context) error {
	j.mu.Lock()
	file := j.file
	j.mu.Unlock()
	if err := file.Sync(); !errors.Is(err, os.ErrClosed) { // a compaction, which syncs, has replaced the file
		return err
	}
	return nil
}

// Watch does nothing: no other host writes the journal.
func (j *Journal) Watch(context.Context, func(authority.Change)) error { return nil }

// Status returns the size of the journal, and reports whether most of it is history.
func (j *Journal) Status() authority.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	return authority.Status{Size: j.size, CompactionDue: j.size >= compactAt && j.size >= 4*j.live}
}

// Close closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}

// count adds the bytes that a lock takes under a name to reserve and live, or with by -1 subtracts them.
func (j *Journal) count(r *authority.Record, name string, by int64) {
	// An operation, a length, the name, a generation: at most this many.
	j.reserve += by * int64(frameHeader+1+2*binary.MaxVarintLen64+len(name))
	j.live += by * int64(frameHeader+len(name)+250+100*len(r.Ancestors))
}

// settledSize is about how many bytes the record of a file takes that is no lock.
func settledSize(name string, file authority.Settled) int64 {
	return int64(frameHeader + 16 + len(name) + len(file.Identity) + len(file.Sum))
}

// newFrame begins a frame in the space of buffer; records are appended to it.
func newFrame(buffer []byte) []byte {
	return append(buffer[:0], make([]byte, frameHeader)...)
}

// seal completes a frame.
func seal(frame []byte) []byte {
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-frameHeader))
	binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(frame[frameHeader:], castagnoli))
	return frame
}

// append completes a frame and writes it, and leaves spare bytes reserved behind it.
func (j *Journal) append(frame []byte, spare int64) error {
	j.frame = seal(frame)
	if err := j.extend(int64(len(frame)) + spare); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(frame, j.size); err != nil {
		return authority.NoSpace(err)
	}
	j.size += int64(len(frame))
	return nil
}

// extend reserves space for n bytes behind the last frame.
func (j *Journal) extend(n int64) error {
	if j.noReserve || j.size+n <= j.allocated {
		return nil
	}
	for _, want := range []int64{n + allocateStep, n} {
		err := reserveSpace(j.file, j.size, want)
		switch {
		case err == nil:
			j.allocated = j.size + want
			return nil
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			j.noReserve = true
			return nil
		case !errors.Is(authority.NoSpace(err), authority.ErrNoSpace):
			return err
		}
	}
	if j.giveWay != nil && j.giveWay() {
		return j.extend(n)
	}
	return authority.ErrNoSpace
}
