//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// Handle is a file the kernel has open.
type Handle struct {
	Node        *Inode
	Flags       int // of open(2), without those that act only once
	Passthrough bool
	Direct      bool // not by the page cache
	// Descriptor is what a lock was made with, nil otherwise.
	Descriptor *lockstore.Descriptor
	// Family says that it was opened for writing by the family of a lock's holder.
	Family bool
	// Writer is the process that opened it for writing, if it is at a lock name and was not made with
	// O_EXCL; else nil.
	Writer *lockstore.Writer
	Unique uint64              // of the request that opened it
	User   uint32              // who opened it
	Row    *handover.HandleRow // what outlives the server; nil until it is in the table

	mu sync.Mutex
	FD int // -1 until it is needed
}

// OpenFlags are the flags that go on to matter after open(2). O_DIRECT is the
// kernel's business above us; beneath, it would only ask for alignment.
const OpenFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME | unix.O_LARGEFILE

// File returns a handle's descriptor, opening it if a passthrough open did not need one so
// far.
func (f *Directory) File(h *Handle) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.FD < 0 {
		fd, err := f.Reopen(h.Node, h.Flags)
		if err != nil {
			return -1, err
		}
		h.FD = fd
		if h.Row != nil {
			f.Tables.Set(&h.Row.FD, fd)
		}
	}
	return h.FD, nil
}

// CloseFile closes the descriptor of a handle.
func (f *Directory) CloseFile(h *Handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.FD < 0 {
		return
	}
	if h.Row != nil {
		f.Tables.Set(&h.Row.FD, -1)
	}
	unix.Close(h.FD)
	h.FD = -1
}

// AddFile puts h, opened as out says, into the table.
func (f *Directory) AddFile(h *Handle, out *fuse.OpenOut) {
	row := f.Tables.Handles.Take()
	row.Node, row.Unique, row.Flags, row.User = h.Node.ID, h.Unique&^UniqueResent, uint32(h.Flags), h.User
	if h.Descriptor != nil {
		row.Generation = h.Descriptor.Generation()
	}
	if w := h.Writer; w != nil {
		row.Writer = handover.WriterRow{
			Set: true, PID: int32(w.PID), NSPID: int32(w.NSPID), UID: w.UID, Started: w.StartTime, Namespace: w.PIDNamespace,
			Group: int32(w.Group), Session: int32(w.Session), MayRemove: w.MayRemove,
		}
	}
	bits := uint32(0)
	for _, b := range []struct {
		is  bool
		bit uint32
	}{{h.Passthrough, handover.BitPassthrough}, {h.Direct, handover.BitDirect}, {h.Family, handover.BitFamily}} {
		if b.is {
			bits |= b.bit
		}
	}
	row.Bits.Store(bits)
	f.Tables.Set(&row.FD, h.FD)
	h.Row = row
	out.Fh = f.NextHandle()
	f.Files.Add(out.Fh, h)
	if h.Passthrough {
		row.Backing = out.BackingID
	}
	row.ID.Store(out.Fh)
	if h.Passthrough && out.BackingID > f.Tables.Head.LastBacking.Load() {
		f.Tables.Head.LastBacking.Store(out.BackingID)
	}
}

// RemoveFile takes a handle that is closed out of the table.
func (f *Directory) RemoveFile(id uint64, h *Handle) {
	f.Files.Remove(id)
	h.Row.ID.Store(0)
	f.Tables.Handles.Give(h.Row)
}

// UndoOpens closes what a dead server opened for a request that it did not answer.
func (f *Directory) UndoOpens(unique uint64) {
	f.Tables.Handles.Each(func(row *handover.HandleRow) {
		id := row.ID.Load()
		if id == 0 || row.Unique != unique {
			return
		}
		if row.Bits.Load()&handover.BitDirectory != 0 {
			f.RemoveDir(id)
		} else if h := f.Files.Get(id); h != nil {
			f.CloseFile(h)
			f.Closed(h)
			f.RemoveFile(id, h)
			f.Descriptors.Give(h.User)
		}
	})
}

func (f *Directory) NextHandle() uint64 { return f.Tables.Head.NextHandle.Add(1) - 1 }

func (h *Handle) Writes() bool { return h.Flags&unix.O_ACCMODE != unix.O_RDONLY }

// Handles is a table of what is open, under numbers that are never used again.
type Handles[T any] struct {
	mu   sync.RWMutex
	open map[uint64]T
}

func (t *Handles[T]) Add(id uint64, h T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]T)
	}
	t.open[id] = h
}

// Get returns the zero value for a number that is not in use.
func (t *Handles[T]) Get(id uint64) T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.open[id]
}

func (t *Handles[T]) Remove(id uint64) T {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.open[id]
	delete(t.open, id)
	return h
}

func (t *Handles[T]) Size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.open)
}

// DirHandle is a directory the kernel has open.
type DirHandle struct {
	Node *Inode
	Row  *handover.HandleRow // what outlives the server

	Mu      sync.Mutex // guards the fields below
	FD      int
	Buffer  []byte
	Pending []byte // what getdents(2) gave and was not passed on
	Next    uint64 // the offset of the first entry in pending
}

func (f *Directory) RemoveDir(id uint64) {
	if d := f.Dirs.Remove(id); d != nil {
		d.Mu.Lock()
		defer d.Mu.Unlock()
		user := d.Row.User
		d.Row.ID.Store(0)
		unix.Close(d.FD)
		f.Tables.Handles.Give(d.Row)
		f.Descriptors.Give(user)
	}
}
