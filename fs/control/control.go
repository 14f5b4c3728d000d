//go:build linux

package control

import (
	"iter"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/access"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// Name is the name of the control directory in the root of the mount. It covers an entry of that name in the backing
// directory.
const Name = ".latchfs"

// Node ids of the control directory. FirstFree is the first one that is not reserved for it.
const (
	dirID     = 2
	ctlID     = 6
	lockID    = 7
	waitID    = 8
	eventsID  = 10
	FirstFree = 16
	// Dynamic is set in the node ids of entries of lock and wait.
	Dynamic = 1 << 62
)

// file is an entry of the control directory.
type file struct {
	name string
	id   uint64 // its node id
	mode uint32
	// text returns what a reader gets, as of the moment of open(2). It is nil for directories, and for ctl and events.
	text func(*Dir, access.User) (iter.Seq[[]byte], error)
}

// files is the table of the control directory. The kernel keeps node ids for as long as the mount lives, and the mount
// survives an upgrade of latchfs: do not change or reuse the number of an entry.
var files = []file{
	{"locks", 9, unix.S_IFREG | 0o444, (*Dir).table},
	{"locks.json", 3, unix.S_IFREG | 0o444, (*Dir).list},
	{"status", 4, unix.S_IFREG | 0o444, (*Dir).status},
	{"events", eventsID, unix.S_IFREG | 0o444, nil},
	{"metrics", 11, unix.S_IFREG | 0o444, (*Dir).metrics},
	{"reclaimed", 5, unix.S_IFREG | 0o444, (*Dir).reclaimed},
	{"ctl", ctlID, unix.S_IFREG | 0o222, nil}, // anybody may write; ctl.go decides which commands are obeyed
	{"lock", lockID, unix.S_IFDIR | 0o555, nil},
	{"wait", waitID, unix.S_IFDIR | 0o555, nil},
}

// Is reports whether a node id is that of the control directory or of a node in it.
func Is(id uint64) bool { return id >= dirID && id < FirstFree || id&Dynamic != 0 }

// Locks is what the control directory needs of a *lockstore.Store, which documents the methods.
type Locks interface {
	All(asked func(name string) bool) iter.Seq[lockstore.Entry]
	Get(name string) (lockstore.Entry, bool)
	Holds(name string) bool
	Names() []string
	Recent() []lockstore.Reaping
	Reclaimed() []lockstore.Reclaimed
	Subscribe() *lockstore.Subscription
	Await(name string, ticket uint64, uid uint32, p bootid.Process, tell func(error)) *lockstore.Waiter
	ReleaseFor(name string, o lockstore.Operator) error
	Compact() error
}

// Options are what a Dir needs.
type Options struct {
	Locks  Locks
	Access *access.Checker
	// Tables keep nodes and polls. Nodes are the rows of a dead server with FlagControl, Polls those with BitPolled.
	Tables *handover.Tables
	Nodes  []*handover.InodeRow
	Polls  []*handover.HandleRow
	// MaxWaitingPerUser bounds the event streams and, separately, the waiting readers of each user other than root and
	// the mount's owner; 0 is no limit.
	MaxWaitingPerUser int

	Status      func() Status
	Metrics     func() ([]byte, error)
	SetLogLevel func(level string) error
	// Stat returns the attributes of the file at a path in the mount.
	Stat       func(path string) (lockstore.File, error)
	IsLockName func(name string) bool
	// Caller identifies the sender of a request that is not answered yet.
	Caller func(in *fuse.InHeader) bootid.Process
	// OpenedBy returns the processes that have the file at a path open, without latchfs's own.
	OpenedBy func(path string) []bootid.Process
	// Undo takes back the lookups that a dead server counted for a request, if the kernel sent the request again.
	Undo func(in *fuse.InHeader)
	// ReleaseOnce calls release, unless a dead server has released for the same request.
	ReleaseOnce func(in *fuse.InHeader, release func() error) error
	// NotifyPoll tells the kernel that the file it knows by the number kh may be ready.
	NotifyPoll func(kh uint64)
	Log        logrus.FieldLogger
}

// Dir serves the control directory.
type Dir struct {
	host    Options
	nodes   nodes
	open    sync.Map // openFile by file handle
	pollers pollers
	// beginning is held while the stream or turn of a file handle is created on demand.
	beginning sync.Mutex
	events    eventLog
	limits    [limits]limit
}

// nextHandle returns a number that no file handle had before, in any server.
func (d *Dir) nextHandle() uint64 { return d.host.Tables.Head.NextHandle.Add(1) - 1 }

// New returns a Dir. If Options.Polls has any, call PollAgain once requests are read.
func New(o Options) *Dir {
	d := &Dir{host: o}
	d.nodes.takeOver(o.Tables, o.Nodes)
	for _, row := range o.Polls {
		d.pollers.keep(row)
	}
	return d
}

// mode returns the mode of a node, 0 if there is none.
func (d *Dir) mode(id uint64) uint32 {
	if n := d.nodes.get(id); n != nil {
		return n.mode
	}
	if id == dirID {
		return unix.S_IFDIR | 0o555
	}
	for _, file := range files {
		if file.id == id {
			return file.mode
		}
	}
	return 0
}

// Attr fills in the attributes of a node.
func (d *Dir) Attr(id uint64, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: ^uint64(0) - id, Nlink: 1, Mode: d.mode(id),
		Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())},
	}
	if out.Mode&unix.S_IFMT == unix.S_IFDIR {
		out.Nlink = 2
	}
}

// Lookup finds the entry name of a node of the control directory, or the control directory in the root.
func (d *Dir) Lookup(in *fuse.InHeader, name string, out *fuse.EntryOut) (err error) {
	switch {
	case in.NodeId == fuse.FUSE_ROOT_ID:
		out.NodeId = dirID
	case in.NodeId == dirID:
		for _, file := range files {
			if file.name == name {
				out.NodeId = file.id
			}
		}
	default:
		if out.NodeId, err = d.lookupLock(in, name); err != nil {
			return err
		}
	}
	if out.NodeId == 0 {
		return unix.ENOENT
	}
	d.Attr(out.NodeId, &out.Attr)
	return nil
}

// ReadDir passes the entries of a directory to add until it returns false. The entries of lock and wait are numbered in
// the order of their names, and may change between two calls.
func (d *Dir) ReadDir(in *fuse.ReadIn, add func(fuse.DirEntry) bool) {
	entries := d.lockEntries(in.NodeId, d.host.Access.Caller(&in.InHeader))
	if in.NodeId == dirID {
		for _, file := range files {
			entries = append(entries, fuse.DirEntry{Name: file.name, Mode: file.mode & unix.S_IFMT})
		}
	}
	for i, entry := range entries {
		if uint64(i) < in.Offset {
			continue
		}
		entry.Off = uint64(i + 1)
		if !add(entry) {
			break
		}
	}
}
