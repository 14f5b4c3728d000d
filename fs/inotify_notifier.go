//go:build linux

package fs

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A file that the store takes away beneath is gone, but nobody who watches its directory with inotify(7) hears
// of it: the kernel raises that event where a process unlinks the file, and for none of its FUSE notifications (that of
// a deletion waits for the directory's lock besides, and does not end when its server is killed). So another process, the
// notifier, unlinks the name in the mount afterwards. To it alone the name is still there, as a tombstone, and to unlink
// a tombstone does nothing beneath. To whom else makes the name anew meanwhile the notifier does nothing either.
type notifier struct {
	fs     *FS
	start  func() (Notifier, error) // nil if there is none to be
	queue  chan string
	thread atomic.Uint32 // of the notifier, 0 while there is none

	mu         sync.Mutex
	tombstones map[string]*tombstone // by their names in the mount
}

// Notifier is a process that unlinks names in the mount. It lasts as long as it has something to do.
type Notifier interface {
	// Thread is the one that does so, as the kernel numbers it in requests.
	Thread() int
	// Unlink unlinks a name, of a directory or not, and returns when that is done or has failed.
	Unlink(name string, directory bool) error
	// Close ends the process.
	Close()
}

// tombstone is a file that was taken away.
type tombstone struct {
	node      *inode // nil if the kernel does not know it
	directory bool
}

const (
	// maxTombstones is how many wait to be told of; of more nobody is told.
	maxTombstones = 4096
	// notifierDelay is how long it waits before the first of several, so as not to be in the way of who takes the lock next.
	notifierDelay = time.Millisecond
	// notifierIdle is how long a notifier waits for more.
	notifierIdle = 10 * time.Second
)

// announce has the notifier tell that the file of a name was taken away.
func (h *notifier) announce(name string, g tombstone) {
	if h.start == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Though the name may be there already: that one may just be told of.
	select {
	case h.queue <- name:
		h.tombstones[name] = &g
	default: // there are too many
	}
}

// lay forgets the tombstone g of a name, unless there is another by now.
func (h *notifier) lay(name string, g *tombstone) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.tombstones[name] == g {
		delete(h.tombstones, name)
	}
}

// tombstone is that of a name, nil if there is none.
func (h *notifier) tombstone(name string) *tombstone {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tombstones[name]
}

// run has a notifier while there is something to tell, until stop.
func (h *notifier) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case name := <-h.queue:
			process, err := h.start()
			if err != nil {
				h.fs.log.WithError(err).Warn("who watches with inotify is not told of locks that are removed as stale")
				return
			}
			h.fs.tables.head.notifier.Store(uint64(process.Thread()))
			h.thread.Store(uint32(process.Thread()))
			err = h.tell(process, name, stop)
			process.Close()
			h.thread.Store(0)
			if err != nil {
				h.fs.log.WithError(err).Debug("the notifier has ended")
			}
		}
	}
}

// tell has it tell of a name and those that follow, until there are none for a while.
func (h *notifier) tell(process Notifier, name string, stop <-chan struct{}) error {
	idle := time.NewTimer(notifierIdle)
	defer idle.Stop()
	for {
		if g := h.tombstone(name); g != nil {
			err := process.Unlink(name, g.directory)
			h.lay(name, g)
			if err != nil {
				return err
			}
		}
		idle.Reset(notifierIdle)
		select {
		case <-stop:
			return nil
		case <-idle.C:
			return nil
		case name = <-h.queue:
			if len(h.queue) == 0 {
				time.Sleep(notifierDelay)
			}
		}
	}
}

// calls says that a request is of the notifier, or of that of a server that has died: this one then meets what it was
// about to do then.
func (h *notifier) calls(in *fuse.InHeader) bool {
	return in.Pid != 0 && (in.Pid == h.thread.Load() || in.Unique&uniqueResent != 0 && uint64(in.Pid) == h.fs.tables.head.notifier.Load())
}

// lookup shows the notifier the tombstone of a name, if no file is there.
func (h *notifier) lookup(dir *inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	nameLock := h.fs.enter(dir, name)
	defer nameLock.Leave()
	at := h.fs.inodes.path(dir, name)
	g := h.tombstone(at)
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) || g == nil {
		return h.fs.lookupIn(nameLock, dir, name, in, out)
	}
	mode := uint32(unix.S_IFREG | 0o600)
	if g.directory {
		mode = unix.S_IFDIR | 0o700
	}
	if g.node != nil && h.fs.inodes.again(g.node, in.Unique) {
		out.NodeId, mode = g.node.id, g.node.kind|0o600
	} else if id, ok := h.fs.control.Tombstone(at, mode, in.Unique); ok {
		out.NodeId = id
	} else {
		return unix.ENOENT
	}
	out.Attr = fuse.Attr{Ino: ^uint64(0) - out.NodeId, Nlink: 1, Mode: mode, Owner: in.Caller.Owner}
	return nil
}

// remove lets the notifier unlink a tombstone, and nothing else. On ENOENT the kernel would forget the entry, and who has the file
// open would seem to have a deleted one.
func (h *notifier) remove(dir *inode, name string) error {
	nameLock := h.fs.enter(dir, name)
	defer nameLock.Leave()
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) {
		return unix.EBUSY
	}
	at := h.fs.inodes.path(dir, name)
	g := h.tombstone(at)
	if g == nil {
		return unix.ENOENT
	}
	h.lay(at, g)
	return nil
}
