//go:build linux

package fs

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A request that a dead server had read and not answered comes again. Most can be carried out
// twice. For the others there is an intent: what is about to be done is written down before the
// system call, and its result after it. When such a request comes again with a result, that is
// the answer. Without one the system call is made again, and where it fails because it
// had been made already (EEXIST, ENOENT), that is no error: the kernel has held the
// directories concerned, or the file, since before the request came the first time
// (inode_lock), so nobody else on the mount can have been it.

// uniqueResent is set in the number of a request that was sent before (FUSE_UNIQUE_RESEND).
const uniqueResent = 1 << 63

// intentRow is a request that must not be carried out twice. Rows are used in turn, so that one is
// still there while its answer is on the way.
type intentRow struct {
	unique     atomic.Uint64 // 0 is a free row
	state      atomic.Uint32
	op         operation
	result     atomic.Int64  // an errno, or the number of bytes as a negative number
	generation atomic.Uint64 // of the lock acquired for it
	started    int64         // ns of Unix time
	dir, other entryRow
	dev, ino   uint64 // of what is renamed
	size       uint64 // of the file before
}

// entryRow is an entry of a directory.
type entryRow struct {
	node uint64
	size uint32
	name [256]byte
}

func (e *entryRow) set(node uint64, name string) {
	e.node, e.size = node, uint32(copy(e.name[:], name))
}

func (e *entryRow) text() string { return string(e.name[:min(int(e.size), len(e.name))]) }

// The states of an intentRow.
const (
	intentBegun = iota
	intentDone
	intentOver // what follows from it is recorded too
)

// operation is a kind of request.
type operation uint32

// The operations that must not be carried out twice.
const (
	opCreate operation = iota + 1
	opMkdir
	opMknod
	opSymlink
	opLink
	opUnlink
	opRmdir
	opRename
	opTruncate
	opWrite
	opSetXattr
	opRemoveXattr
	opControl
)

// intent is what is known of a request in hand.
type intent struct {
	row *intentRow
	// again says that a dead server had begun it.
	again bool
}

// begin writes the intent of a request down, or finds what a dead server wrote.
func (f *FS) begin(in *fuse.InHeader, op operation) intent {
	if in.Unique&uniqueResent != 0 {
		f.undo(in)
		for i := range f.tables.intents {
			if row := &f.tables.intents[i]; row.unique.Load() == in.Unique&^uniqueResent && row.op == op {
				return intent{row, true}
			}
		}
	}
	row := &f.tables.intents[(f.tables.head.intentsMade.Add(1)-1)%intentRows]
	row.unique.Store(0)
	row.op, row.started = op, time.Now().UnixNano()
	row.state.Store(intentBegun)
	row.result.Store(0)
	row.generation.Store(0)
	row.dir.node, row.other.node = 0, 0
	row.dev, row.ino, row.size = 0, 0, 0
	return intent{row, false}
}

// written makes what was filled in count.
func (i intent) written(in *fuse.InHeader) {
	if !i.again {
		i.row.unique.Store(in.Unique)
	}
}

// beginEntry begins one that concerns the entry name of the request's directory.
func (f *FS) beginEntry(in *fuse.InHeader, op operation, name string) intent {
	i := f.begin(in, op)
	if !i.again {
		i.row.dir.set(in.NodeId, name)
	}
	i.written(in)
	return i
}

// undo takes back what a dead server counted and opened for a request that it did not answer.
func (f *FS) undo(in *fuse.InHeader) {
	if in.Unique&uniqueResent == 0 {
		return
	}
	for {
		node := f.tables.uncount(in.Unique, 0)
		if node == 0 {
			break
		}
		f.Forget(node, 1)
	}
	f.undoOpens(in.Unique &^ uniqueResent)
}

// finished says that the request was carried out by a dead server, and with what result.
func (i intent) finished() (n int, err error, ok bool) {
	if !i.again || i.row.state.Load() == intentBegun {
		return 0, nil, false
	}
	if result := i.row.result.Load(); result > 0 {
		return 0, unix.Errno(result), true
	} else {
		return int(-result), nil, true
	}
}

// once carries the request out unless a dead server did. Where it may have, without saying so,
// happened says of an error that it is no error but the sign of it.
func (i intent) once(do func() error, happened func(err error) bool) error {
	if _, err, ok := i.finished(); ok {
		return err
	}
	// failpoint: crashAt(operationNames[i.row.op] + " before")
	err := do()
	if i.again && err != nil && happened(err) {
		err = nil
	}
	// failpoint: crashAt(operationNames[i.row.op] + " after")
	i.finish(0, err)
	return err
}

// finish writes the result down.
func (i intent) finish(n int, err error) {
	result := int64(-n)
	if err != nil {
		result = int64(status(err))
	}
	i.row.result.Store(result)
	i.row.state.Store(intentDone)
	// failpoint: crashAt(operationNames[i.row.op] + " reply")
}

// over tells that what follows from it is recorded too; one that was refused is forgotten.
func (i intent) over() {
	if i.row.state.Load() == intentBegun {
		i.row.unique.Store(0)
		return
	}
	i.row.state.Store(intentOver)
}

func never(error) bool { return false }

// is returns a function that says whether an error is errno, for once.
func is(errno unix.Errno) func(error) bool {
	return func(err error) bool { return errors.Is(err, errno) }
}

// isNew says that the entry name of dir, of that type, can be what a dead server made: it is not
// older than the intent, by the coarse clock that files are stamped with.
func (i intent) isNew(dir *inode, name string, kind uint32) func(error) bool {
	return func(err error) bool {
		if !errors.Is(err, unix.EEXIST) {
			return false
		}
		var st unix.Statx_t
		if unix.Statx(dir.fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st) != nil {
			return false
		}
		made := st.Ctime
		if st.Mask&unix.STATX_BTIME != 0 {
			made = st.Btime
		}
		const tick = 20 * time.Millisecond
		return uint32(st.Mode)&unix.S_IFMT == kind && made.Sec*1e9+int64(made.Nsec) >= i.row.started-int64(tick)
	}
}
