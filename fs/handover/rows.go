//go:build linux

package handover

import "sync/atomic"

// The rows of the tables. Another version of latchfs reads them: a change of any row needs a new tablesVersion.

// DescriptorPair is the number of a descriptor in the servers of both columns, plus 1. 0 is none.
type DescriptorPair [2]atomic.Int32

// Head is the first row.
type Head struct {
	// The fields up to keepers are the same in every version.

	magic, version uint64
	// active is the column of the server whose descriptors are valid, plus 1. It is 0 before the mount.
	active  atomic.Uint32
	keepers [2]keeperRow

	// Scanned reports whether all files from before the mount have been judged.
	Scanned                                         atomic.Bool
	Device                                          DescriptorPair // /dev/fuse
	NextNode, NextHandle                            atomic.Uint64
	Poison                                          atomic.Uint64 // the request that made a handler panic
	Notifier                                        atomic.Uint64 // the thread of the last inotify notifier
	lookupsMade                                     atomic.Uint64
	intentsMade                                     atomic.Uint64
	LastBacking                                     atomic.Int32 // the last backing id given out
	inodesUsed, handlesUsed, textsUsed, watchesUsed atomic.Uint32
	InitRequestSize, InitReplySize                  uint32 // bytes
	InitRequest                                     [256]byte
	InitReply                                       [256]byte
}

// keeperRow is the descriptor keeper of a server.
type keeperRow struct {
	pid, started atomic.Uint64
	server       atomic.Uint64 // pid
}

// InodeRow is an inode that the kernel knows.
type InodeRow struct {
	ID       atomic.Uint64 // node id
	Dev, Ino uint64
	Lookups  atomic.Uint64
	FD       DescriptorPair
	Kind     uint32 // S_IFMT part of the mode
	Flags    atomic.Uint32
	Place    atomic.Uint32 // the text with its parent and name; 0 is none
	Handle   uint32        // the text with its handle of name_to_handle_at(2); 0 is none
}

// The flags of an InodeRow.
const (
	FlagLockNamed = 1 << iota
	FlagTakenAway
	FlagControl // a file of .latchfs
)

// textRow is a part of a text and a number that belongs to it: a name and the node id of its directory, or a file
// handle and its type.
type textRow struct {
	used atomic.Uint32
	size uint32 // bytes of this part and those that follow
	of   uint64
	next uint32 // the row of the next part, plus 1
	text [44]byte
}

// HandleRow is an open file or directory.
type HandleRow struct {
	ID         atomic.Uint64 // file handle, as the kernel knows it
	Node       uint64
	Unique     uint64 // the request that opened it
	Generation uint64 // the lock that was made with it
	Writer     WriterRow
	FD         DescriptorPair
	Flags      uint32 // of open(2)
	Bits       atomic.Uint32
	Backing    int32
	User       uint32 // the user that opened it
}

// WriterRow is the process that opened a file at a lock name for writing.
type WriterRow struct {
	Set                bool // there is one; PID 0 is a process that could not be identified
	PID, NSPID         int32
	Group, Session     int32
	UID                uint32
	MayRemove          bool
	Started, Namespace uint64
}

// The bits of a HandleRow.
const (
	BitDirectory = 1 << iota
	BitPassthrough
	BitDirect
	BitFamily
	BitClosing   // its RELEASE is being answered
	BitReleased  // it no longer counts as open
	BitClosedEnd // when it was closed, the creator of its lock was ending
	BitFlushed   // a descriptor of it was closed before, while that creator was not ending
	BitPolled    // a polled file of .latchfs; Node is the number by which the kernel knows the poll
)

// lookupRow is a lookup of a node that was counted for a request.
type lookupRow struct{ unique, node atomic.Uint64 }

// watchRow is the pidfd of a watched process.
type watchRow struct {
	pid     atomic.Uint64
	started uint64 // start time in clock ticks, as in proc_pid_stat(5)
	fd      DescriptorPair
}

// intentRow is a request that must not be carried out twice.
type intentRow struct {
	unique     atomic.Uint64 // 0 is a free row
	state      atomic.Uint32
	op         Operation
	result     atomic.Int64
	generation atomic.Uint64 // of the lock acquired for it
	started    int64         // ns of Unix time
	dir, other entryRow
	dev, ino   uint64
	size       uint64
}

// entryRow is an entry of a directory.
type entryRow struct {
	node uint64
	size uint32
	name [256]byte
}
