//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// Handle is a file that the kernel has open.
type Handle struct {
	Node        *Inode
	Flags       int // of open(2), without those that act only once
	Passthrough bool
	Direct      bool // without the page cache
	// Descriptor is the one with which a lock was made, nil for any other handle.
	Descriptor *lockstore.Descriptor
	// Family reports whether the family of a lock's holder opened the file for writing.
	Family bool
	// Writer is the process that opened the file for writing, if the file is at a lock name and was not made with
	// O_EXCL. Otherwise it is nil.
	Writer *lockstore.Writer
	Unique uint64              // the request that opened it
	User   uint32              // the user that opened it
	Row    *handover.HandleRow // outlives the server; nil until the handle is in the table

	mu sync.Mutex
	FD int // -1 until it is needed
}

// OpenFlags are the flags that still matter after open(2). O_DIRECT is left to the kernel above: beneath, it would
// only demand alignment.
const OpenFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME | unix.O_LARGEFILE

// File returns the descriptor of a handle, and opens the file if a passthrough open has not needed one so far.
func (d *Directory) File(h *Handle) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.FD < 0 {
		fd, err := d.Reopen(h.Node, h.Flags)
		if err != nil {
			return -1, err
		}
		h.FD = fd
		if h.Row != nil {
			d.Tables.Set(&h.Row.FD, fd)
			d.Descriptors.Took(h.User)
		}
	}
	return h.FD, nil
}

// WithFile calls do with a descriptor of a handle. A handle that needs none of its own gets one for the call only, if
// descriptors are scarce.
func (d *Directory) WithFile(h *Handle, do func(fd int) error) error {
	h.mu.Lock()
	brief := h.FD < 0 && d.Spares(h)
	h.mu.Unlock()
	if !brief || h.Node.FD >= 0 && d.Descriptors.spares(h.User, d.Inodes.pinned()) {
		fd, err := d.File(h)
		if err != nil {
			return err
		}
		return do(fd)
	}
	fd, err := d.Reopen(h.Node, h.Flags)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// CloseFile closes the descriptor of a handle.
func (d *Directory) CloseFile(h *Handle) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.FD < 0 {
		return
	}
	if h.Row != nil {
		d.Tables.Set(&h.Row.FD, -1)
		d.Descriptors.gave(h.User)
	}
	unix.Close(h.FD)
	h.FD = -1
}

// AddFile puts h, which was opened as out says, into the table.
func (d *Directory) AddFile(h *Handle, out *fuse.OpenOut) {
	row := d.Tables.Handles.Take()
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
	if h.Passthrough {
		row.Bits.Or(handover.BitPassthrough)
	}
	if h.Direct {
		row.Bits.Or(handover.BitDirect)
	}
	if h.Family {
		row.Bits.Or(handover.BitFamily)
	}
	d.Tables.Set(&row.FD, h.FD)
	h.Row = row
	if h.FD >= 0 {
		d.Descriptors.Took(h.User)
	}
	out.Fh = d.NextHandle()
	d.Files.Add(out.Fh, h)
	if h.Passthrough {
		row.Backing = out.BackingID
	}
	row.ID.Store(out.Fh)
	if h.Passthrough && out.BackingID > d.Tables.Head.LastBacking.Load() {
		d.Tables.Head.LastBacking.Store(out.BackingID)
	}
}

// RemoveFile removes a closed handle from the table.
func (d *Directory) RemoveFile(id uint64, h *Handle) {
	d.Files.remove(id)
	h.Row.ID.Store(0)
	d.Tables.Handles.Give(h.Row)
}

// UndoOpens closes the files that a dead server opened for a request that it did not answer.
func (d *Directory) UndoOpens(unique uint64) {
	d.Tables.Handles.Each(func(row *handover.HandleRow) {
		id := row.ID.Load()
		if id == 0 || row.Unique != unique {
			return
		}
		if row.Bits.Load()&handover.BitDirectory != 0 {
			d.RemoveDir(id)
		} else if h := d.Files.Get(id); h != nil {
			d.CloseFile(h)
			d.Closed(h)
			d.RemoveFile(id, h)
		}
	})
}

func (d *Directory) NextHandle() uint64 { return d.Tables.Head.NextHandle.Add(1) - 1 }

func (h *Handle) Writes() bool { return h.Flags&unix.O_ACCMODE != unix.O_RDONLY }

// handles is a table of open files under numbers that are never used again.
type handles[T any] struct {
	mu   sync.RWMutex
	open map[uint64]T
}

func (t *handles[T]) Add(id uint64, h T) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]T)
	}
	t.open[id] = h
}

// Get returns the zero value for an unknown number.
func (t *handles[T]) Get(id uint64) T {
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

func (t *handles[T]) Size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.open)
}

// DirHandle is a directory that the kernel has open.
type DirHandle struct {
	Node *Inode
	Row  *handover.HandleRow // outlives the server

	Mu      sync.Mutex // guards the fields below
	FD      int
	Buffer  []byte
	Pending []byte // read with getdents(2) and not passed on
	Next    uint64 // offset of the first entry in Pending
}

func (d *Directory) RemoveDir(id uint64) {
	if open := d.Dirs.remove(id); open != nil {
		open.Mu.Lock()
		defer open.Mu.Unlock()
		user := open.Row.User
		open.Row.ID.Store(0)
		if open.FD >= 0 {
			unix.Close(open.FD)
			d.Descriptors.gave(user)
		}
		d.Tables.Handles.Give(open.Row)
	}
}
