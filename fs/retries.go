//go:build linux

package fs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// retries makes sure that no call is answered ESTALE twice. The first time the kernel looks all names
// up again and sends the request for what it finds; the second time the caller would get the error. So
// what was reaped after the second lookup is answered as it was: the lookup is within the call, and so
// is the moment at which the answer was true.
type retries struct {
	some atomic.Bool // whether calls holds anything

	mu    sync.Mutex
	calls map[uint32]retried // by the thread that calls
}

// retried is a call that was answered ESTALE.
type retried struct {
	found    uint64 // the node of the lock that was looked up since, 0 before
	answered uint64 // the kinds of requests that were answered for it, as 1 << Opcode
}

// maxRetries bounds retries.calls: a call may end in another way and stay there.
const maxRetries = 1024

// stale returns ESTALE, for a request for the node id, or nil if its call must not get it.
func (r *retries) stale(in *fuse.InHeader, id uint64) error {
	if in.Pid == 0 {
		return unix.ESTALE // callers out of sight cannot be told apart
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

// lookedUp notes that a request found a lock.
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
	default: // of a later call
		delete(r.calls, in.Pid)
		r.some.Store(len(r.calls) > 0)
	}
}

// reaped returns ESTALE to a request for a lock that is gone and that the kernel asks for because it
// has the name cached, and not because it has the file open.
func (f *FS) reaped(n *backing.Inode, in *fuse.InHeader) error {
	if !n.TakenAway() || !n.LockNamed() || n.Opens.Any() {
		return nil
	}
	return f.retries.stale(in, n.ID)
}
