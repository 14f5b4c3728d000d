package lockstore

import (
	"bufio"
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
)

// The journal is one file: a header, then frames. A frame is the length of its
// payload, the CRC-32C of the payload (both 32 bits, little-endian), and the payload:
// one or more records (record.go).
//
// What it must survive is the death of latchfs. A write(2) that returned is in the
// page cache and stays there when the writer is killed, so nothing is synced on the path of
// a caller. When the machine dies with unsynced frames, what is lost are records of
// locks whose holders died with it; their files are then judged like any found
// without a record.
const (
	journalName    = "journal"
	journalMagic   = "latchfs\x00"
	journalVersion = 2
	headerSize     = len(journalMagic) + 4 + 4 // magic, version, CRC-32C of both
	frameHeader    = 8
	maxFrame       = 1 << 20
	// allocateStep is how much space is reserved ahead, in bytes.
	allocateStep = 64 << 10
	// tailUnderLock is how much compaction may copy while appends wait, in bytes.
	tailUnderLock = 64 << 10
	// writebackStep is after how many bytes compaction has them written to the disk: all at once they would hold up what
	// others do on it.
	writebackStep = 4 << 20
)

// compactAt is the size below which a journal is never compacted, in bytes. The crash tests lower it.
var compactAt int64 = 1 << 20

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type journal struct {
	path string
	log  logrus.FieldLogger

	mu         sync.Mutex // guards the fields below
	file       *os.File
	size       int64 // end of the last whole frame
	allocated  int64 // space is reserved up to here
	noReserve  bool  // the filesystem cannot reserve space
	reserve    int64 // bytes of frames that would delete every lock there is
	live       int64 // bytes of frames that would put every lock there is
	compacting bool
	frame      []byte // scratch
	// giveWay frees space on the filesystem, if it can; it may be nil.
	giveWay func() bool
}

// openJournal reads the journal in dir, unless it was read ahead, or makes one. It returns what it says. A torn or corrupt
// tail is cut at the last whole frame and kept beside it.
func openJournal(dir string, ahead *Ahead, log logrus.FieldLogger) (*journal, *replayed, error) {
	j := &journal{path: filepath.Join(dir, journalName), log: log}
	// A compaction that was interrupted; the journal itself is whole.
	if err := os.Remove(j.newPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	file, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, nil, err
	}
	j.file = file
	r, err := j.recover(ahead)
	if err != nil {
		file.Close()
		return nil, nil, fmt.Errorf("%s: %w", j.path, err)
	}
	for _, l := range r.inOrder {
		if !l.gone {
			j.count(l.Name, len(l.ancestors()), 1)
		}
	}
	for name, file := range r.settled {
		j.live += file.size(name)
	}
	if err := j.extend(j.reserve); err != nil {
		log.WithError(err).Warn("no space is left for new locks; those there are can still be released")
	}
	return j, r, nil
}

func (j *journal) newPath() string { return j.path + ".new" }

// recover replays the file and leaves j.size at the end of the last whole frame.
func (j *journal) recover(ahead *Ahead) (*replayed, error) {
	info, err := j.file.Stat()
	if err != nil {
		return nil, err
	}
	r := ahead.take(info)
	if r == nil {
		if r, err = replayJournal(j.file, info.Size(), nil); err != nil {
			return nil, err
		}
	}
	if r.end < info.Size() {
		if err := j.cut(r.end, info.Size()); err != nil {
			return nil, err
		}
	}
	j.size = max(r.end, int64(headerSize))
	if r.version != journalVersion {
		// It is new, or is written on in this version from here on.
		if _, err := j.file.WriteAt(journalHeader(), 0); err != nil {
			return nil, noSpace(err)
		}
	}
	j.allocated = j.size
	return r, nil
}

// cut keeps what follows the last whole frame in a file of its own, then removes it.
func (j *journal) cut(end, size int64) error {
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

// copyOut writes what from holds to a new file.
func copyOut(path string, from io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, from)
	return errors.Join(err, file.Close())
}

func journalHeader() []byte {
	b := append([]byte(journalMagic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[len(journalMagic):], journalVersion)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// put records that l is as described. Acquiring is true if there was no lock of that
// name: then it fails with ErrNoSpace rather than take what releases need.
func (j *journal) put(l Lock, acquiring bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	frame := appendPut(newFrame(j.frame), &l)
	if acquiring {
		j.count(l.Name, len(l.Ancestors), 1)
	}
	if err := j.append(frame, j.reserve); err != nil {
		if acquiring {
			j.count(l.Name, len(l.Ancestors), -1)
		}
		return err
	}
	return nil
}

// delete records that the lock of a name is gone, with ancestors. Space for it was reserved when it was put.
func (j *journal) delete(name string, generation uint64, ancestors int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count(name, ancestors, -1)
	return j.append(appendDelete(newFrame(j.frame), name, generation), 0)
}

// move records in one frame that l has the name newName from now on.
func (j *journal) move(l Lock, newName string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	moved := l
	moved.Name = newName
	frame := appendPut(appendDelete(newFrame(j.frame), l.Name, l.Generation), &moved)
	j.count(l.Name, len(l.Ancestors), -1)
	j.count(newName, len(l.Ancestors), 1)
	err := j.append(frame, j.reserve)
	if err != nil {
		j.count(newName, len(l.Ancestors), -1)
		j.count(l.Name, len(l.Ancestors), 1)
	}
	return err
}

// settle records that the file of a name is no lock.
func (j *journal) settle(name string, file settledFile) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(appendSettle(newFrame(j.frame), name, file), j.reserve); err != nil {
		return err
	}
	j.live += file.size(name)
	return nil
}

// unsettle records that this does not count any more.
func (j *journal) unsettle(name string, file settledFile) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live -= file.size(name)
	return j.append(appendUnsettle(newFrame(j.frame), name), j.reserve)
}

// count keeps account of what the locks there are would take, in bytes, when there are by more of a name.
func (j *journal) count(name string, ancestors int, by int64) {
	// An operation, a length, the name, a generation: at most this many.
	j.reserve += by * int64(frameHeader+1+2*binary.MaxVarintLen64+len(name))
	j.live += by * int64(frameHeader+len(name)+250+100*ancestors)
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

// append completes a frame and writes it, leaving spare bytes reserved behind it.
func (j *journal) append(frame []byte, spare int64) error {
	j.frame = seal(frame)
	if err := j.extend(int64(len(frame)) + spare); err != nil {
		return err
	}
	if _, err := j.file.WriteAt(frame, j.size); err != nil {
		return noSpace(err)
	}
	j.size += int64(len(frame))
	return nil
}

// extend reserves space for n bytes behind the last frame.
func (j *journal) extend(n int64) error {
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
		case !errors.Is(noSpace(err), ErrNoSpace):
			return err
		}
	}
	if j.giveWay != nil && j.giveWay() {
		return j.extend(n)
	}
	return ErrNoSpace
}

func noSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// compactionDue says, once, that the journal is mostly history. The caller then calls
// compact.
func (j *journal) compactionDue() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.compacting || j.size < compactAt || j.size < 4*j.live {
		return false
	}
	j.compacting = true
	return true
}

// compact writes the files that are settled and the locks that each yields to a new file and appends to it what was
// journaled meanwhile, then puts it in the journal's place. Appends wait only for
// the last piece of that. Each may yield a lock as it is at any moment since compact
// began, since all that changed it since is replayed after it.
func (j *journal) compact(generation uint64, settled map[string]settledFile, each func(yield func(Lock) error) error) (err error) {
	j.mu.Lock()
	j.compacting = true
	copied := j.size
	old := j.file
	j.mu.Unlock()
	defer func() {
		if err == nil {
			old.Close() // takes long: its space is freed
		}
		j.mu.Lock()
		j.compacting = false
		j.mu.Unlock()
	}()

	file, err := os.OpenFile(j.newPath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(j.newPath())
		}
	}()
	pauseAt("compaction begun")
	out := bufio.NewWriter(file)
	size := int64(0)
	write := func(b []byte) error {
		n, err := out.Write(b)
		if before := size; before/writebackStep != (before+int64(n))/writebackStep {
			startWriteback(file)
		}
		size += int64(n)
		return err
	}
	if err := write(journalHeader()); err != nil {
		return err
	}
	if err := write(seal(appendGeneration(newFrame(nil), generation))); err != nil {
		return err
	}
	var frame []byte
	for name, file := range settled {
		frame = appendSettle(newFrame(frame), name, file)
		if err := write(seal(frame)); err != nil {
			return err
		}
	}
	if err := each(func(l Lock) error {
		frame = appendPut(newFrame(frame), &l)
		return write(seal(frame))
	}); err != nil {
		return err
	}
	copyTail := func(to int64) error {
		n, err := io.Copy(out, io.NewSectionReader(old, copied, to-copied))
		copied, size = copied+n, size+n
		if err == nil && copied != to {
			err = io.ErrUnexpectedEOF
		}
		if err == nil {
			err = out.Flush()
		}
		return err
	}
	for synced := false; ; synced = true {
		j.mu.Lock()
		end := j.size
		if synced && end-copied <= tailUnderLock {
			break
		}
		j.mu.Unlock()
		if err := copyTail(end); err != nil {
			return err
		}
		if !synced {
			// Should the machine die, a filesystem may have the new name and not yet what is in it; the
			// highest generation at least is not to be lost.
			if err := file.Sync(); err != nil {
				return err
			}
		}
	}
	defer j.mu.Unlock()
	if err := copyTail(j.size); err != nil {
		return err
	}
	if !j.noReserve {
		if err := reserveSpace(file, size, j.reserve); err != nil {
			return err
		}
	}
	pauseAt("compaction written")
	if err := os.Rename(j.newPath(), j.path); err != nil {
		return err
	}
	pauseAt("compaction renamed")
	j.file, j.size, j.allocated = file, size, size+j.reserve
	return nil
}

// sync makes what was appended survive the death of the machine.
func (j *journal) sync() error {
	j.mu.Lock()
	file := j.file
	j.mu.Unlock()
	return file.Sync()
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
