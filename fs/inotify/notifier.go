//go:build linux

// Package inotify announces removed locks to processes that watch a directory with inotify(7).
package inotify

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/fs/handover"
)

// Notifier tells processes that watch a directory with inotify(7) of locks that the store removed beneath the mount.
// The kernel raises that event only if a process unlinks the file. None of its FUSE notifications raises it, and the one
// of a deletion waits for the directory's lock besides and does not end when its server is killed. So another process
// unlinks the name in the mount afterwards. To that process alone the name still exists, as a tombstone. To unlink a
// tombstone does nothing beneath. If another process has recreated the name, the notifier leaves it alone.
type Notifier struct {
	tables *handover.Tables
	start  func() (Unlinker, error) // nil: no process is told
	log    logrus.FieldLogger
	queue  chan string
	thread atomic.Uint32 // of the unlinker, 0 while there is none

	mu         sync.Mutex
	tombstones map[string]*Tombstone // by their paths in the mount
}

// Unlinker is a process that unlinks names in the mount.
type Unlinker interface {
	// Thread is the thread that unlinks, by the number it has in requests.
	Thread() int
	// Unlink unlinks a file or a directory and returns when that is done or has failed.
	Unlink(name string, directory bool) error
	// Close ends the process.
	Close()
}

// Tombstone is a file that the store removed.
type Tombstone struct {
	Node      uint64 // node id, 0 if the kernel does not know the file
	Directory bool
}

const (
	// maxTombstones bounds the queue. Beyond it, removals are not announced.
	maxTombstones = 4096
	// notifierDelay is the pause before the first of several removals, so that the next taker of the lock comes first.
	notifierDelay = time.Millisecond
	// notifierIdle is how long the unlinker waits for more removals.
	notifierIdle = 10 * time.Second
)

// New returns a notifier that starts its process with start. If start is nil, it announces nothing.
func New(tables *handover.Tables, log logrus.FieldLogger, start func() (Unlinker, error)) *Notifier {
	return &Notifier{
		tables: tables, start: start, log: log,
		queue: make(chan string, maxTombstones), tombstones: make(map[string]*Tombstone),
	}
}

// Announce has watchers told that the file at a path was removed.
func (n *Notifier) Announce(path string, node uint64, directory bool) {
	if n.start == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// The path is queued again even if it is queued: the earlier one may be in work.
	select {
	case n.queue <- path:
		n.tombstones[path] = &Tombstone{node, directory}
	default: // the queue is full
	}
}

// Lay forgets the tombstone t of a path, unless another one has replaced it.
func (n *Notifier) Lay(path string, t *Tombstone) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.tombstones[path] == t {
		delete(n.tombstones, path)
	}
}

// Tombstone returns the tombstone of a path, nil if there is none.
func (n *Notifier) Tombstone(path string) *Tombstone {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.tombstones[path]
}

// Run starts an unlinker whenever there are removals to announce, until stop.
func (n *Notifier) Run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case path := <-n.queue:
			process, err := n.start()
			if err != nil {
				n.log.WithError(err).Warn("processes that watch with inotify are not told of locks that are removed as stale")
				return
			}
			n.tables.Head.Notifier.Store(uint64(process.Thread()))
			n.thread.Store(uint32(process.Thread()))
			err = n.announceAll(process, path, stop)
			process.Close()
			n.thread.Store(0)
			if err != nil {
				n.log.WithError(err).Debug("the notifier has ended")
			}
		}
	}
}

// announceAll has the unlinker unlink a path and the ones queued after it, until the queue is idle.
func (n *Notifier) announceAll(process Unlinker, path string, stop <-chan struct{}) error {
	idle := time.NewTimer(notifierIdle)
	defer idle.Stop()
	for {
		if t := n.Tombstone(path); t != nil {
			err := process.Unlink(path, t.Directory)
			n.Lay(path, t)
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
		case path = <-n.queue:
			if len(n.queue) == 0 {
				time.Sleep(notifierDelay)
			}
		}
	}
}

// Calls reports whether a request is from the unlinker: it is made by the thread tid, and may be resent. A resent one
// can be from the unlinker of a dead server, which then meets the state that it would have met before.
func (n *Notifier) Calls(tid uint32, resent bool) bool {
	return tid != 0 && (tid == n.thread.Load() || resent && uint64(tid) == n.tables.Head.Notifier.Load())
}
