//go:build linux

package fs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// retries makes sure that no system call is answered ESTALE twice. After the first ESTALE the kernel looks all names up
// again and sends the request for the file it finds; after the second one the caller gets the error. So if a lock is
// reaped after the second lookup, the request is answered as if the lock were still there: that was true at a moment
// within the call.
type retries struct {
	some atomic.Bool // calls is not empty

	mu    sync.Mutex
	calls map[uint32]retried // by the calling thread
}

// retried is a call that was answered ESTALE.
type retried struct {
	found    uint64 // the node id of the lock that was looked up afterwards, 0 before
	answered uint64 // the kinds of requests for it that were answered, as 1 << Opcode
}

// maxRetries bounds retries.calls: a call that ends in another way stays there.
const maxRetries = 1024

// stale returns ESTALE for a request for a node id, or nil if the call must not get ESTALE again.
func (r *retries) stale(in *fuse.InHeader, id uint64) error {
	if in.Pid == 0 {
		return unix.ESTALE // callers in an invisible pid namespace all have pid 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	call, kind := r.calls[in.Pid], uint64(1)<<in.Opcode
	if call.found == id && call.answered&kind == 0 {
		call.answered |= kind
		r.calls[in.Pid] = call
		return nil
	}
	if r.calls == nil || len(r.calls) == maxRetries {
		r.calls = make(map[uint32]retried)
	}
	r.calls[in.Pid] = retried{}
	r.some.Store(true)
	return unix.ESTALE
}

// lookedUp records that a request found a lock.
func (r *retries) lookedUp(in *fuse.InHeader, id uint64) {
	if !r.some.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	call, ok := r.calls[in.Pid]
	switch {
	case !ok:
	case call.found == 0:
		r.calls[in.Pid] = retried{found: id}
	default: // a later call of the thread
		delete(r.calls, in.Pid)
		r.some.Store(len(r.calls) > 0)
	}
}

// reaped returns ESTALE for a request for a lock that was reaped, unless the file is open: the kernel then asks only
// because it has the name cached, and looks it up again.
func (f *FS) reaped(n *backing.Inode, in *fuse.InHeader) error {
	if !n.TakenAway() || !n.LockNamed() || n.Opens.Any() {
		return nil
	}
	return f.retries.stale(in, n.ID)
}
