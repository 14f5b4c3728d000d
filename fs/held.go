//go:build linux

package fs

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
	kept  int // for how many other reasons it stays open
}

// recent are the inodes opened by handle that were looked up last.
type recent struct {
	mu   sync.Mutex
	ring []*inode
	next int
}

// leastRecent is how many there are at least.
const leastRecent = 16

// lookedUp keeps the descriptor of an inode that was looked up, if it is opened by handle. It returns ESTALE if the inode is gone.
func (f *FS) lookedUp(n *inode) error {
	if n.handle == nil {
		return nil
	}
	if !f.keep(n) {
		return unix.ESTALE
	}
	f.recent.push(n, f.descriptors.share(handledShare))
	return nil
}

// push adds an inode whose descriptor is kept, and lets go of the one that was looked up longest ago.
func (r *recent) push(n *inode, most int) {
	r.mu.Lock()
	if r.ring == nil {
		r.ring = make([]*inode, max(leastRecent, most))
	}
	oldest := r.ring[r.next]
	r.ring[r.next] = n
	r.next = (r.next + 1) % len(r.ring)
	r.mu.Unlock()
	if oldest != nil {
		oldest.held.unkeep()
	}
}

// keep opens an inode that is opened by handle, until unkeep or end. It reports whether that worked.
func (f *FS) keep(n *inode) bool {
	if !f.hold(n) {
		return false
	}
	n.held.mu.Lock()
	n.held.kept++
	n.held.mu.Unlock()
	n.release()
	return true
}

func (h *held) unkeep() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.kept > 0 {
		h.kept--
	}
	h.closeUnused()
}

// heldDir is the directory of a node id with a descriptor (pathFD) until it is released; nil if there is none.
func (f *FS) heldDir(id uint64) *inode {
	dir := f.inodes.get(id)
	if dir == nil || !f.hold(dir) {
		return nil
	}
	return dir
}

// hold opens an inode that is opened by handle. It reports whether the inode has a descriptor until it is released.
func (f *FS) hold(n *inode) bool {
	if n.handle == nil {
		return n.fd >= 0
	}
	h := &n.held
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd.Load() == 0 {
		fd, err := f.openHandle(*n.handle)
		if err != nil {
			return false
		}
		h.fd.Store(int32(fd) + 1)
	}
	h.users++
	return true
}

// release gives up what hold opened. It may be called of nil.
func (n *inode) release() {
	if n == nil || n.handle == nil {
		return
	}
	h := &n.held
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users--
	h.closeUnused()
}

// keepHeld keeps the directory at an entry of dir open that is about to be removed: without a name it may not be found by its handle, and
// processes may still be in it.
func (f *FS) keepHeld(dir *inode, name string) {
	if f.inodes.pinned() < f.descriptors.share(handledShare) {
		return // all have a descriptor
	}
	st, err := statEntry(dir.pathFD(), name)
	if err != nil {
		return
	}
	n := f.inodes.peek(keyOf(&st), dir.pathFD(), name)
	if n != nil && n.handle != nil && n.isDir() {
		f.keep(n)
	}
}

// end closes the descriptor of a directory that the kernel has forgotten, unless a request uses it: that closes it.
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

// pathFD is an O_PATH descriptor of an inode that is held, or keeps one.
func (n *inode) pathFD() int {
	if n.fd >= 0 {
		return n.fd
	}
	return int(n.held.fd.Load()) - 1
}
