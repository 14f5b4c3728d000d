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
// herald, unlinks the name in the mount afterwards. To it alone the name is still there, as a ghost, and to unlink
// a ghost does nothing beneath. To whom else makes the name anew meanwhile the herald does nothing either.
type herald struct {
	fs     *FS
	start  func() (Herald, error) // nil if there is none to be
	queue  chan string
	thread atomic.Uint32 // of the herald, 0 while there is none

	mu     sync.Mutex
	ghosts map[string]*ghost // by their names in the mount
}

// Herald is a process that unlinks names in the mount. It lasts as long as it has something to do.
type Herald interface {
	// Thread is the one that does so, as the kernel numbers it in requests.
	Thread() int
	// Unlink unlinks a name, of a directory or not, and returns when that is done or has failed.
	Unlink(name string, directory bool) error
	// Close ends the process.
	Close()
}

// ghost is a file that was taken away.
type ghost struct {
	node      *inode // nil if the kernel does not know it
	directory bool
}

const (
	// maxGhosts is how many wait to be told of; of more nobody is told.
	maxGhosts = 4096
	// heraldDelay is how long it waits before the first of several, so as not to be in the way of who takes the lock next.
	heraldDelay = time.Millisecond
	// heraldIdle is how long a herald waits for more.
	heraldIdle = 10 * time.Second
)

// announce has the herald tell that the file of a name was taken away.
func (h *herald) announce(name string, g ghost) {
	if h.start == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Though the name may be there already: that one may just be told of.
	select {
	case h.queue <- name:
		h.ghosts[name] = &g
	default: // there are too many
	}
}

// lay forgets the ghost g of a name, unless there is another by now.
func (h *herald) lay(name string, g *ghost) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ghosts[name] == g {
		delete(h.ghosts, name)
	}
}

// ghost is that of a name, nil if there is none.
func (h *herald) ghost(name string) *ghost {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ghosts[name]
}

// run has a herald while there is something to tell, until stop.
func (h *herald) run(stop <-chan struct{}) {
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
			h.fs.tables.head.herald.Store(uint64(process.Thread()))
			h.thread.Store(uint32(process.Thread()))
			err = h.tell(process, name, stop)
			process.Close()
			h.thread.Store(0)
			if err != nil {
				h.fs.log.WithError(err).Debug("the herald has ended")
			}
		}
	}
}

// tell has it tell of a name and those that follow, until there are none for a while.
func (h *herald) tell(process Herald, name string, stop <-chan struct{}) error {
	idle := time.NewTimer(heraldIdle)
	defer idle.Stop()
	for {
		if g := h.ghost(name); g != nil {
			err := process.Unlink(name, g.directory)
			h.lay(name, g)
			if err != nil {
				return err
			}
		}
		idle.Reset(heraldIdle)
		select {
		case <-stop:
			return nil
		case <-idle.C:
			return nil
		case name = <-h.queue:
			if len(h.queue) == 0 {
				time.Sleep(heraldDelay)
			}
		}
	}
}

// calls says that a request is of the herald, or of that of a server that has died: this one then meets what it was
// about to do then.
func (h *herald) calls(in *fuse.InHeader) bool {
	return in.Pid != 0 && (in.Pid == h.thread.Load() || in.Unique&uniqueResent != 0 && uint64(in.Pid) == h.fs.tables.head.herald.Load())
}

// lookup shows the herald the ghost of a name, if no file is there.
func (h *herald) lookup(dir *inode, name string, in *fuse.InHeader, out *fuse.EntryOut) error {
	section := h.fs.enter(dir, name)
	defer section.Leave()
	at := h.fs.inodes.path(dir, name)
	g := h.ghost(at)
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) || g == nil {
		return h.fs.lookupIn(section, dir, name, in, out)
	}
	mode := uint32(unix.S_IFREG | 0o600)
	if g.directory {
		mode = unix.S_IFDIR | 0o700
	}
	if g.node != nil && h.fs.inodes.again(g.node, in.Unique) {
		out.NodeId, mode = g.node.id, g.node.kind|0o600
	} else if n := h.fs.control.nodes.find(h.fs.tables, controlLock, controlPath{controlLock, at}, mode, in.Unique); n != nil {
		out.NodeId = n.id
	} else {
		return unix.ENOENT
	}
	out.Attr = fuse.Attr{Ino: ^uint64(0) - out.NodeId, Nlink: 1, Mode: mode, Owner: in.Caller.Owner}
	return nil
}

// remove lets the herald unlink a ghost, and nothing else. On ENOENT the kernel would forget the entry, and who has the file
// open would seem to have a deleted one.
func (h *herald) remove(dir *inode, name string) error {
	section := h.fs.enter(dir, name)
	defer section.Leave()
	if _, err := statEntry(dir.fd, name); !errors.Is(err, unix.ENOENT) {
		return unix.EBUSY
	}
	at := h.fs.inodes.path(dir, name)
	g := h.ghost(at)
	if g == nil {
		return unix.ENOENT
	}
	h.lay(at, g)
	return nil
}
