//go:build linux

package backing

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// held is the descriptor of an inode that is opened by handle: while requests use it, and while it is among those that were
// looked up last. What is looked up is used next: without a descriptor, a file that is replaced in between would be answered
// ESTALE.
type held struct {
	fd atomic.Int32 // plus 1

	mu    sync.Mutex
	users int
	kept  int // number of other reasons to keep it open
}

// recent are the inodes opened by handle that were looked up last.
type recent struct {
	mu   sync.Mutex
	ring []*Inode
	next int
}

// LeastRecent is the least number of inodes in recent.
const LeastRecent = 16

// LookedUp keeps the descriptor of an inode that was looked up, if it is opened by handle. added means that the inode is
// new and its descriptor is kept already. LookedUp returns ESTALE if the inode is gone, and ENFILE or EMFILE if there is no
// descriptor.
func (d *Directory) LookedUp(n *Inode, added bool) error {
	if n.handle == nil {
		return nil
	}
	if !added {
		if err := d.keep(n); err != nil {
			return err
		}
	}
	d.recent.push(n, d.Descriptors.share(handledShare))
	return nil
}

// push adds an inode whose descriptor is kept, and lets go of the one that was looked up longest ago.
func (r *recent) push(n *Inode, most int) {
	r.mu.Lock()
	if r.ring == nil {
		r.ring = make([]*Inode, max(LeastRecent, most))
	}
	oldest := r.ring[r.next]
	r.ring[r.next] = n
	r.next = (r.next + 1) % len(r.ring)
	r.mu.Unlock()
	if oldest != nil {
		oldest.held.unkeep()
	}
}

// keep opens an inode that is opened by handle, until unkeep or end.
func (d *Directory) keep(n *Inode) error {
	if err := d.hold(n); err != nil {
		return err
	}
	n.held.mu.Lock()
	n.held.kept++
	n.held.mu.Unlock()
	n.Release()
	return nil
}

func (h *held) unkeep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept > 0 {
		h.kept--
	}
	h.closeUnused()
}

// HeldDir returns the directory of a node id with a descriptor (PathFD) until it is released. It returns nil if the kernel
// has forgotten it, and an error if it cannot be opened.
func (d *Directory) HeldDir(id uint64) (*Inode, error) {
	dir := d.Inodes.Get(id)
	if dir == nil {
		return nil, nil
	}
	if err := d.hold(dir); err != nil {
		return nil, err
	}
	return dir, nil
}

// hold opens an inode that is opened by handle, until it is released. It returns ESTALE if the inode is gone.
func (d *Directory) hold(n *Inode) error {
	if n.handle == nil {
		if n.FD < 0 {
			return unix.ESTALE
		}
		return nil
	}
	h := &n.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd.Load() == 0 {
		fd, err := d.openHandle(*n.handle)
		if err != nil {
			return err
		}
		h.fd.Store(int32(fd) + 1)
	}
	h.users++
	return nil
}

// Release gives up what hold opened. n may be nil.
func (n *Inode) Release() {
	if n == nil || n.handle == nil {
		return
	}
	h := &n.held
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users--
	h.closeUnused()
}

// KeepHeld keeps the directory at an entry of dir open that is about to be removed. Without a name it may not be found by its
// handle, and processes may still be in it.
func (d *Directory) KeepHeld(dir *Inode, name string) {
	if d.Inodes.pinned() < d.Descriptors.share(handledShare) {
		return // all have a descriptor
	}
	st, err := StatEntry(dir.PathFD(), name)
	if err != nil {
		return
	}
	n := d.Inodes.Peek(KeyOf(&st), dir.PathFD(), name)
	if n != nil && n.handle != nil && n.IsDir() {
		_ = d.keep(n) // otherwise it may not be found
	}
}

// end closes the descriptor of a directory that the kernel has forgotten, unless a request uses it. Release closes it then.
func (h *held) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kept = 0
	h.closeUnused()
}

// closeUnused closes the descriptor if nothing needs it. mu is held.
func (h *held) closeUnused() {
	if h.users > 0 || h.kept > 0 {
		return
	}
	if fd := h.fd.Swap(0); fd > 0 {
		unix.Close(int(fd) - 1)
	}
}

// PathFD is an O_PATH descriptor of an inode that is held, or keeps one.
func (n *Inode) PathFD() int {
	if n.FD >= 0 {
		return n.FD
	}
	return int(n.held.fd.Load()) - 1
}
