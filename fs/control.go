//go:build linux

package fs

import (
	"errors"
	"iter"
	"os"
	"path"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// controlName is a directory at the root of the mount that is not listed: what latchfs
// says of itself. It covers an entry of that name beneath.
const controlName = ".latchfs"

// Node ids of the control directory and what is directly in it.
const (
	controlDir = 2 + iota
	controlLocks
	controlStatus
	controlReclaimed
	controlCtl
	controlLock
	controlWait
	controlTable
	controlEvents
	controlMetrics
)

// controlDynamic is set in the node ids of what is in the directories lock and wait.
const controlDynamic = 1 << 62

func isControl(id uint64) bool {
	return id >= controlDir && id < handover.FirstNodeID || id&controlDynamic != 0
}

// controlFile is an entry of the control directory.
type controlFile struct {
	name string
	id   uint64
	mode uint32
	// content is what a file says to a user at the moment it is opened, nil for one that says nothing.
	content func(*control, accessor) (iter.Seq[[]byte], error)
}

var controlFiles = []controlFile{
	{"locks", controlTable, unix.S_IFREG | 0o444, (*control).table},
	{"locks.json", controlLocks, unix.S_IFREG | 0o444, (*control).list},
	{"status", controlStatus, unix.S_IFREG | 0o444, asJSON(func(c *control, _ accessor) any { return c.current() })},
	{"events", controlEvents, unix.S_IFREG | 0o444, nil},
	{"metrics", controlMetrics, unix.S_IFREG | 0o444, (*control).metrics},
	{"reclaimed", controlReclaimed, unix.S_IFREG | 0o444, asJSON((*control).reclaimed)},
	// All may write: control_ctl.go says what of that is obeyed.
	{"ctl", controlCtl, unix.S_IFREG | 0o222, nil},
	{"lock", controlLock, unix.S_IFDIR | 0o555, nil},
	{"wait", controlWait, unix.S_IFDIR | 0o555, nil},
}

// control serves the control directory.
type control struct {
	fs      *FS
	status  Status
	nodes   controlNodes
	files   backing.Handles[*controlText]
	streams backing.Handles[*eventStream]
	turns   backing.Handles[*polledTurn]
	pollers pollers
	// beginning is held while a stream of another server, or a turn, gets its place.
	beginning sync.Mutex
	events    eventLog
	limits    [limits]limit
	most      int // of each for each user; 0 is no limit
}

// refuse answers a request to change something by a node id that is none of the
// backing directory's.
func (c *control) refuse(id uint64) fuse.Status {
	if isControl(id) || id == fuse.FUSE_ROOT_ID {
		return fuse.EPERM
	}
	return status(unix.ESTALE)
}

// mode is that of a node; 0 if there is none.
func (c *control) mode(id uint64) uint32 {
	if n := c.nodes.get(id); n != nil {
		return n.mode
	}
	if id == controlDir {
		return unix.S_IFDIR | 0o555
	}
	for _, file := range controlFiles {
		if file.id == id {
			return file.mode
		}
	}
	return 0
}

func (c *control) attr(id uint64, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: ^uint64(0) - id, Nlink: 1, Mode: c.mode(id),
		Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())},
	}
	if out.Mode&unix.S_IFMT == unix.S_IFDIR {
		out.Nlink = 2
	}
}

func (c *control) getAttr(id uint64, out *fuse.AttrOut) fuse.Status {
	c.attr(id, &out.Attr)
	return fuse.OK
}

func (c *control) lookup(in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	switch {
	case in.NodeId == fuse.FUSE_ROOT_ID:
		out.NodeId = controlDir
	case in.NodeId == controlDir:
		for _, file := range controlFiles {
			if file.name == name {
				out.NodeId = file.id
			}
		}
	default:
		id, err := c.lookupLock(in, name)
		if err != nil {
			return status(err)
		}
		out.NodeId = id
	}
	if out.NodeId == 0 {
		return fuse.ENOENT
	}
	c.attr(out.NodeId, &out.Attr)
	return fuse.OK
}

func (c *control) open(in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	if in.NodeId == controlCtl {
		out.Fh = openedBy(in.Uid, 0)
		return fuse.OK
	}
	if name := c.waits(in.NodeId); name != "" {
		// The number tells those who wait for the same name who came first.
		out.Fh = c.fs.NextHandle()
		// So must who reads it, when that reads.
		return status(c.fs.mayEnter(&in.InHeader, path.Dir(name)))
	}
	out.Fh = openedBy(in.Uid, c.fs.NextHandle())
	for c.files.Get(out.Fh) != nil || c.streams.Get(out.Fh) != nil {
		out.Fh = openedBy(in.Uid, c.fs.NextHandle())
	}
	if in.NodeId == controlEvents {
		out.OpenFlags |= fuse.FOPEN_STREAM
		return status(c.openStream(out.Fh, c.fs.accessor(&in.InHeader), false))
	}
	return status(c.openText(&in.InHeader, out.Fh))
}

// openedBy is a file handle that tells who opened it, to a later server as well, beside a number of 32 bits.
func openedBy(uid uint32, number uint64) (fh uint64) { return uint64(uid+1)<<32 | number&(1<<32-1) }

// opener is the user who opened a file handle of openedBy. Of any other handle it is (uid_t)-1, who is nobody.
func opener(fh uint64) (uid uint32) { return uint32(fh>>32) - 1 }

// opened is the user who opened a file handle, for a caller that uses it. Of one who is not the caller no groups are known.
func (c *control) opened(in *fuse.InHeader, fh uint64) accessor {
	if uid := opener(fh); uid != in.Uid {
		return accessor{uid: uid}
	}
	return c.fs.accessor(in)
}

// openText puts what the file of a node id says to the user who opened it into the table.
func (c *control) openText(in *fuse.InHeader, fh uint64) error {
	pieces, err := c.content(in.NodeId, c.opened(in, fh))
	if err == nil {
		c.files.Add(fh, &controlText{pieces: pieces})
	}
	return err
}

// content is what the file of a node id says now.
func (c *control) content(id uint64, to accessor) (iter.Seq[[]byte], error) {
	if n := c.nodes.get(id); n != nil {
		return c.lock(n.path, to)
	}
	for _, file := range controlFiles {
		if file.id == id && file.content != nil {
			return file.content(c, to)
		}
	}
	return nil, unix.EBADF
}

// slow carries out a read that is answered when something happens, with reply, once; nil is that this is none.
// With O_NONBLOCK the answer is EAGAIN if it would have to wait.
func (c *control) slow(in *fuse.ReadIn, reply func([]byte, error)) (cancel func()) {
	impatient, answer := in.Flags&unix.O_NONBLOCK != 0, reply
	if impatient {
		reply = func(text []byte, err error) {
			if errors.Is(err, lockstore.ErrInterrupted) {
				err = unix.EAGAIN
			}
			answer(text, err)
		}
	}
	switch name := c.waits(in.NodeId); {
	case name != "" && in.Offset == 0:
		if c.turns.Get(in.Fh) != nil || c.pollers.has(in.Fh) {
			cancel = c.turn(&in.InHeader, in.Fh, name).read(reply)
		} else {
			cancel = c.wait(&in.InHeader, in.Fh, name, reply)
		}
	case in.NodeId == controlEvents:
		s, err := c.stream(&in.InHeader, in.Fh)
		if err != nil {
			reply(nil, err)
			return func() {}
		}
		cancel = s.read(in, reply)
	default:
		return nil
	}
	if impatient {
		cancel()
	}
	return cancel
}

// openStream begins the stream of a handle.
func (c *control) openStream(fh uint64, to accessor, restarted bool) error {
	if err := c.limits[limitEvents].take(to.uid, c.most); err != nil {
		return err
	}
	c.streams.Add(fh, newEventStream(c.fs, to, restarted))
	return nil
}

// stream is the one of a handle, which another server may have opened.
func (c *control) stream(in *fuse.InHeader, fh uint64) (*eventStream, error) {
	c.beginning.Lock()
	defer c.beginning.Unlock()
	if c.streams.Get(fh) == nil {
		if err := c.openStream(fh, c.opened(in, fh), true); err != nil {
			return nil, err
		}
	}
	return c.streams.Get(fh), nil
}

// release closes a handle.
func (c *control) release(fh uint64) {
	if text := c.files.Remove(fh); text != nil {
		text.close()
	}
	if s := c.streams.Remove(fh); s != nil {
		s.close()
	}
	if t := c.turns.Remove(fh); t != nil {
		t.cancel()
	}
	c.pollers.remove(c.fs.Tables, fh)
}

func (c *control) read(in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	text := c.files.Get(in.Fh)
	if text == nil {
		if c.waits(in.NodeId) != "" {
			return fuse.ReadResultData(nil), fuse.OK // all was said
		}
		// Another server opened it: what is so now has to do.
		if err := c.openText(&in.InHeader, in.Fh); err != nil {
			return nil, status(err)
		}
		text = c.files.Get(in.Fh)
	}
	return fuse.ReadResultData(text.read(in.Offset, buf)), fuse.OK
}

// readDir lists a directory. Entries of lock and wait are numbered in the order of their names, which may
// come and go meanwhile.
func (c *control) readDir(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	entries := c.lockEntries(in.NodeId, c.fs.accessor(&in.InHeader))
	if in.NodeId == controlDir {
		for _, file := range controlFiles {
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
	return fuse.OK
}
