package lockstore

import (
	"io"
	"slices"
	"sync/atomic"
	"time"

	"latchfs/bootid"
)

// FileID tells files of one boot apart.
type FileID struct {
	Device uint64
	Inode  uint64
}

// FileType is what kind of file lies at a name.
type FileType int

// The types a lock can have; any other is Other.
const (
	Other FileType = iota
	Regular
	Directory
	Symlink
)

// File describes the file at a name of the directory beneath.
type File struct {
	ID   FileID
	Type FileType
	Size int64 // bytes
	UID  uint32
	// Changed is the later of its modification and its status change time.
	Changed time.Time
	// Written is its modification time.
	Written time.Time
}

// CachedJudgment is what is remembered of a file at a lock name without a record. The caller keeps one for each
// file; the zero value is that of a file that was never seen before.
type CachedJudgment struct {
	// noLock is the file's Changed, in nanoseconds since 1970, when it was found to be no lock.
	noLock atomic.Int64
	writer atomic.Pointer[Writer]
}

// Writer is a process that opened a file for writing.
type Writer struct {
	bootid.Process
	// MayRemove reports that it may remove the file's name from its directory. An ordinary file is a pid file only
	// if its writer may: otherwise a user could have other users' files removed by writing a pid into them.
	MayRemove bool
	// Its relatives when it opened the file: it may have ended when the text is read.
	opened   time.Time
	parent   int
	children []int
}

// isRelative reports whether p was the writer's parent or a child of it.
func (w *Writer) isRelative(s *Store, p bootid.Process) bool {
	// If the pid was given to another process since, that one is younger.
	return !s.startedAfter(p, w.opened) && (p.PID == w.parent || slices.Contains(w.children, p.PID))
}

// Writer describes a process that opens a file for writing and waits meanwhile.
func (s *Store) Writer(p bootid.Process, mayRemove bool) *Writer {
	w := &Writer{Process: p, MayRemove: mayRemove, opened: s.now()}
	if p.Known() {
		w.parent, w.children = s.sys.Relatives(p)
	}
	return w
}

// WrittenBy remembers the process that opened the file for writing.
func (s *CachedJudgment) WrittenBy(w *Writer) { s.writer.Store(w) }

// Writer returns the process that opened the file for writing last, nil if none was seen.
func (s *CachedJudgment) Writer() *Writer { return s.writer.Load() }

// TakeOver copies what is remembered in another CachedJudgment of the same file, which no process was seen to
// write.
func (s *CachedJudgment) TakeOver(from *CachedJudgment) { s.noLock.Store(from.noLock.Load()) }

// Files is the directory beneath the mount as the store needs it. Names are lock names, or names of files in a
// directory at a lock name. Every method is called within the name's name lock and must not enter one.
type Files interface {
	// Stat describes the file at name. If there is none, its error is fs.ErrNotExist.
	Stat(name string) (File, error)
	// Open opens the regular file at name for reading.
	Open(name string) (io.ReadCloser, error)
	// Readlink returns the text of the symbolic link at name.
	Readlink(name string) (string, error)
	// Entries returns the names in the directory at name, or limit+1 of them if there are more than limit.
	Entries(name string, limit int) ([]string, error)
	// Identity tells the file at name from every other that has or had the name, also after a
	// reboot, as far as the filesystem can.
	Identity(name string) (string, error)
	// Remove removes the file at name, or the directory with the files that are directly in it. A name that is gone
	// already is no error. After Remove and after Move, no process sees the file any more.
	Remove(name string) error
	// Move renames the file or directory at name to a path outside, in one step. It fails if the path is on another
	// filesystem.
	Move(name, path string) error
	// Opened reports whether a process has the file at name open.
	Opened(name string) bool
	// Local reports whether no other machine can write to the directory.
	Local() bool
}
