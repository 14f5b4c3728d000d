//go:build linux

package fs

import (
	"errors"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
)

// If a server dies after it has read a request and before it has answered it, the request comes again. Most requests
// can be carried out twice. The others are preceded by an intent. If the request comes again and the intent has a
// result, the result is the answer. Otherwise the system call is made again. If it fails because it had been made
// before (EEXIST, ENOENT), that is no error: the kernel holds the directories or the file from before the request came
// the first time (inode_lock), so no other process in the mount can have done it.

// The requests that must not be carried out twice. Their numbers are in the tables: they never change.
const (
	opCreate handover.Operation = iota + 1
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

// intent is the record of a request in hand.
type intent struct{ handover.Intent }

// begin returns a new intent for a request, which counts once it was committed, or the one that a dead server wrote.
func (f *FS) begin(in *fuse.InHeader, op handover.Operation) intent {
	if in.Unique&backing.UniqueResent != 0 {
		f.undo(in)
		if i, ok := f.Tables.FindIntent(in.Unique&^backing.UniqueResent, op); ok {
			return intent{i}
		}
	}
	return intent{f.Tables.NewIntent(op)}
}

// beginEntry records the intent of a request for the entry name of its directory, or returns the one that a dead
// server wrote.
func (f *FS) beginEntry(in *fuse.InHeader, op handover.Operation, name string) intent {
	i := f.begin(in, op)
	if !i.Again {
		i.SetEntry(in.NodeId, name)
		i.Commit(in.Unique &^ backing.UniqueResent)
	}
	return i
}

// undo takes back the lookups and the opens of a dead server for a request that it did not answer.
func (f *FS) undo(in *fuse.InHeader) {
	if in.Unique&backing.UniqueResent == 0 {
		return
	}
	unique := in.Unique &^ backing.UniqueResent
	for node := f.Tables.UncountLookup(unique, 0); node != 0; node = f.Tables.UncountLookup(unique, 0) {
		f.Forget(node, 1)
	}
	f.UndoOpens(unique)
}

// finished returns the result with which a dead server carried the request out, and whether it did: a number of bytes
// or an error.
func (i intent) finished() (n int, err error, ok bool) {
	result, ok := i.Result()
	switch {
	case !i.Again || !ok:
		return 0, nil, false
	case result > 0:
		return 0, unix.Errno(result), true
	}
	return int(-result), nil, true
}

// once carries the request out, unless a dead server did and recorded it. If a dead server may have done it without
// recording it, happened reports whether an error proves that, so that it is none.
func (i intent) once(do func() error, happened func(err error) bool) error {
	if _, err, ok := i.finished(); ok {
		return err
	}
	// failpoint: crashAt(operationNames[i.Operation()] + " before")
	err := do()
	if i.Again && err != nil && happened(err) {
		err = nil
	}
	// failpoint: crashAt(operationNames[i.Operation()] + " after")
	i.finish(0, err)
	return err
}

// finish records the result. An errno is stored as a positive number, a number of bytes as a negative one.
func (i intent) finish(n int, err error) {
	result := int64(-n)
	if err != nil {
		result = int64(status(err))
	}
	i.SetResult(result)
	// failpoint: crashAt(operationNames[i.Operation()] + " reply")
}

func never(error) bool { return false }

// is returns a function that reports whether an error is errno, for once.
func is(errno unix.Errno) func(error) bool {
	return func(err error) bool { return errors.Is(err, errno) }
}

// isNew returns a function for once that reports whether the entry name of dir, of that type, can be what a dead
// server made: it must not be older than the intent, by the coarse clock that stamps files.
func (i intent) isNew(dir *backing.Inode, name string, kind uint32) func(error) bool {
	return func(err error) bool {
		if !errors.Is(err, unix.EEXIST) {
			return false
		}
		var st unix.Statx_t
		if unix.Statx(dir.PathFD(), name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st) != nil {
			return false
		}
		made := st.Ctime
		if st.Mask&unix.STATX_BTIME != 0 {
			made = st.Btime
		}
		const tick = 20 * time.Millisecond
		return uint32(st.Mode)&unix.S_IFMT == kind && made.Sec*1e9+int64(made.Nsec) >= i.Started()-int64(tick)
	}
}
