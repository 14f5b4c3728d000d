//go:build linux

package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// handle is a file the kernel has open.
type handle struct {
	node        *inode
	flags       int // of open(2), without those that act only once
	passthrough bool
	direct      bool // not by the page cache
	// descriptor is what a lock was made with, nil otherwise.
	descriptor *lockstore.Descriptor
	// family says that it was opened for writing by the family of a lock's holder.
	family bool
	// writer is the process that opened it for writing, if it is at a lock name and was not made with
	// O_EXCL; else nil.
	writer *lockstore.Writer
	unique uint64              // of the request that opened it
	user   uint32              // who opened it
	row    *handover.HandleRow // what outlives the server; nil until it is in the table

	mu sync.Mutex
	fd int // -1 until it is needed
}

// openFlags are the flags that go on to matter after open(2). O_DIRECT is the
// kernel's business above us; beneath, it would only ask for alignment.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME | unix.O_LARGEFILE

// file returns a handle's descriptor, opening it if a passthrough open did not need one so
// far.
func (f *Directory) file(h *handle) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd < 0 {
		fd, err := f.reopen(h.node, h.flags)
		if err != nil {
			return -1, err
		}
		h.fd = fd
		if h.row != nil {
			f.tables.Set(&h.row.FD, fd)
		}
	}
	return h.fd, nil
}

// closeFile closes the descriptor of a handle.
func (f *Directory) closeFile(h *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd < 0 {
		return
	}
	if h.row != nil {
		f.tables.Set(&h.row.FD, -1)
	}
	unix.Close(h.fd)
	h.fd = -1
}

// addFile puts h, opened as out says, into the table.
func (f *Directory) addFile(h *handle, out *fuse.OpenOut) {
	row := f.tables.Handles.Take()
	row.Node, row.Unique, row.Flags, row.User = h.node.id, h.unique&^uniqueResent, uint32(h.flags), h.user
	if h.descriptor != nil {
		row.Generation = h.descriptor.Generation()
	}
	if w := h.writer; w != nil {
		row.Writer = handover.WriterRow{
			Set: true, PID: int32(w.PID), NSPID: int32(w.NSPID), UID: w.UID, Started: w.StartTime, Namespace: w.PIDNamespace,
			Group: int32(w.Group), Session: int32(w.Session), MayRemove: w.MayRemove,
		}
	}
	bits := uint32(0)
	for _, b := range []struct {
		is  bool
		bit uint32
	}{{h.passthrough, handover.BitPassthrough}, {h.direct, handover.BitDirect}, {h.family, handover.BitFamily}} {
		if b.is {
			bits |= b.bit
		}
	}
	row.Bits.Store(bits)
	f.tables.Set(&row.FD, h.fd)
	h.row = row
	out.Fh = f.nextHandle()
	f.files.add(out.Fh, h)
	if h.passthrough {
		row.Backing = out.BackingID
	}
	row.ID.Store(out.Fh)
	if h.passthrough && out.BackingID > f.tables.Head.LastBacking.Load() {
		f.tables.Head.LastBacking.Store(out.BackingID)
	}
}

// removeFile takes a handle that is closed out of the table.
func (f *Directory) removeFile(id uint64, h *handle) {
	f.files.remove(id)
	h.row.ID.Store(0)
	f.tables.Handles.Give(h.row)
}

// undoOpens closes what a dead server opened for a request that it did not answer.
func (f *Directory) undoOpens(unique uint64) {
	f.tables.Handles.Each(func(row *handover.HandleRow) {
		id := row.ID.Load()
		if id == 0 || row.Unique != unique {
			return
		}
		if row.Bits.Load()&handover.BitDirectory != 0 {
			f.removeDir(id)
		} else if h := f.files.get(id); h != nil {
			f.closeFile(h)
			f.closed(h)
			f.removeFile(id, h)
			f.descriptors.give(h.user)
		}
	})
}

func (f *Directory) nextHandle() uint64 { return f.tables.Head.NextHandle.Add(1) - 1 }

func (h *handle) writes() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// handles is a table of what is open, under numbers that are never used again.
type handles[T any] struct {
	mu   sync.RWMutex
	open map[uint64]T
}

func (t *handles[T]) add(id uint64, h T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]T)
	}
	t.open[id] = h
}

// get returns the zero value for a number that is not in use.
func (t *handles[T]) get(id uint64) T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[id]
}

func (t *handles[T]) remove(id uint64) T {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[id]
	delete(t.open, id)
	return h
}

func (t *handles[T]) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.open)
}

// dirHandle is a directory the kernel has open.
type dirHandle struct {
	node *inode
	row  *handover.HandleRow // what outlives the server

	mu      sync.Mutex // guards the fields below
	fd      int
	buffer  []byte
	pending []byte // what getdents(2) gave and was not passed on
	next    uint64 // the offset of the first entry in pending
}

func (f *Directory) removeDir(id uint64) {
	if d := f.dirs.remove(id); d != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		user := d.row.User
		d.row.ID.Store(0)
		unix.Close(d.fd)
		f.tables.Handles.Give(d.row)
		f.descriptors.give(user)
	}
}
