//go:build linux

package fs

import (
	"sync"

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
	}
	return h.fd, nil
}

func (h *handle) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fd >= 0 {
		unix.Close(h.fd)
		h.fd = -1
	}
}

func (h *handle) writes() bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY }

// handles is a table of what is open, under numbers that are never used again.
type handles[T any] struct {
	mu   sync.RWMutex
	open map[uint64]T
	next uint64
}

func (t *handles[T]) add(h T) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[uint64]T)
	}
	t.next++
	t.open[t.next] = h
	return t.next
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
