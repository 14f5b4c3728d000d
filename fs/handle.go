//go:build linux

package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

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
	unique uint64     // of the request that opened it
	user   uint32     // who opened it
	row    *handleRow // what outlives the server; nil until it is in the table

	mu sync.Mutex
	fd int // -1 until it is needed
}

// openFlags are the flags that go on to matter after open(2). O_DIRECT is the
// kernel's business above us; beneath, it would only ask for alignment.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME | unix.O_LARGEFILE

// file returns a handle's descriptor, opening it if a passthrough open did not need one so
// far.
func (f *FS) file(h *handle) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd < 0 {
		fd, err := f.reopen(h.node, h.flags)
		if err != nil {
			return -1, err
		}
		h.fd = fd
		if h.row != nil {
			f.tables.set(&h.row.fd, fd)
			f.descriptors.took(h.user)
		}
	}
	return h.fd, nil
}

// closeFile closes the descriptor of a handle.
func (f *FS) closeFile(h *handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd < 0 {
		return
	}
	if h.row != nil {
		f.tables.set(&h.row.fd, -1)
		f.descriptors.gave(h.user)
	}
	unix.Close(h.fd)
	h.fd = -1
}

// addFile puts h, opened as out says, into the table.
func (f *FS) addFile(h *handle, out *fuse.OpenOut) {
	row := f.tables.handles.take()
	row.node, row.unique, row.flags, row.user = h.node.id, h.unique&^uniqueResent, uint32(h.flags), h.user
	if h.descriptor != nil {
		row.generation = h.descriptor.Generation()
	}
	if w := h.writer; w != nil {
		row.writer = writerRow{
			set: true, pid: int32(w.PID), nspid: int32(w.NSPID), uid: w.UID, started: w.StartTime, namespace: w.PIDNamespace,
			group: int32(w.Group), session: int32(w.Session), mayRemove: w.MayRemove,
		}
	}
	bits := uint32(0)
	for _, b := range []struct {
		is  bool
		bit uint32
	}{{h.passthrough, bitPassthrough}, {h.direct, bitDirect}, {h.family, bitFamily}} {
		if b.is {
			bits |= b.bit
		}
	}
	row.bits.Store(bits)
	f.tables.set(&row.fd, h.fd)
	h.row = row
	if h.fd >= 0 {
		f.descriptors.took(h.user)
	}
	out.Fh = f.nextHandle()
	f.files.add(out.Fh, h)
	if h.passthrough {
		row.backing = out.BackingID
	}
	row.id.Store(out.Fh)
	if h.passthrough && out.BackingID > f.tables.head.lastBacking.Load() {
		f.tables.head.lastBacking.Store(out.BackingID)
	}
}

// removeFile takes a handle that is closed out of the table.
func (f *FS) removeFile(id uint64, h *handle) {
	f.files.remove(id)
	h.row.id.Store(0)
	f.tables.handles.give(h.row)
}

// undoOpens closes what a dead server opened for a request that it did not answer.
func (f *FS) undoOpens(unique uint64) {
	f.tables.handles.each(func(row *handleRow) {
		id := row.id.Load()
		if id == 0 || row.unique != unique {
			return
		}
		if row.bits.Load()&bitDirectory != 0 {
			f.removeDir(id)
		} else if h := f.files.get(id); h != nil {
			f.closeFile(h)
			f.closed(h)
			f.removeFile(id, h)
		}
	})
}

func (f *FS) nextHandle() uint64 { return f.tables.head.nextHandle.Add(1) - 1 }

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
