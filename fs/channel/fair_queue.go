//go:build linux

package channel

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

const (
	// maxQueuedBytes bounds the requests that are read before their turn. The kernel keeps all others.
	maxQueuedBytes = 16 << 20
	// turnBuffer is the capacity in bytes of the buffers that are reused. Requests without data fit.
	turnBuffer = 512
	// maxTurnBuffers bounds the buffers that are kept for later requests.
	maxTurnBuffers = 1024
)

// fairQueue holds the requests that were read and not yet carried out. The kernel's queue has one order for all users,
// so one user's ten thousand threads would delay everybody. Here users are served in turn, and the requests of a user in
// the order of their arrival. RELEASE, which the kernel sends on behalf of no user, has its turn after each user's, so
// that files are closed as fast as they are opened.
type fairQueue struct {
	n atomic.Int32 // the number of queued requests; written under mu

	mu     sync.Mutex
	bytes  int
	users  map[uint32]*fifo // by uid, the queues that are not empty
	order  []uint32         // the keys of users; the first is served next
	nobody fifo             // the requests of no user
	user   bool             // the next turn is a user's
	spare  [][]byte         // buffers of turnBuffer bytes
}

// fifo holds requests in the order of their arrival.
type fifo struct {
	requests [][]byte
	first    int
}

func (q *fifo) push(request []byte) { q.requests = append(q.requests, request) }

func (q *fifo) empty() bool { return q.first == len(q.requests) }

func (q *fifo) pop() (request []byte) {
	request = q.requests[q.first]
	q.requests[q.first] = nil
	if q.first++; q.first > len(q.requests)/2 {
		q.requests = q.requests[:copy(q.requests, q.requests[q.first:])]
		q.first = 0
	}
	return request
}

// add queues a copy of a request. It reports whether there is room for another one.
func (q *fairQueue) add(request []byte) (room bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.users == nil {
		q.users = make(map[uint32]*fifo)
	}
	var queued []byte
	if n := len(q.spare); n > 0 && len(request) <= turnBuffer {
		queued, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		queued = make([]byte, 0, max(len(request), turnBuffer))
	}
	queued = append(queued, request...)
	if isNobodys(request) {
		q.nobody.push(queued)
	} else {
		uid := binary.NativeEndian.Uint32(request[uidAt:])
		theirs := q.users[uid]
		if theirs == nil {
			theirs = new(fifo)
			q.users[uid] = theirs
			q.order = append(q.order, uid)
		}
		theirs.push(queued)
	}
	q.bytes += len(queued)
	q.n.Add(1)
	return q.bytes < maxQueuedBytes
}

// isNobodys reports whether the kernel sends requests of this kind on behalf of no user.
func isNobodys(request []byte) bool {
	switch binary.NativeEndian.Uint32(request[opcodeAt:]) {
	case opcodeRelease, opcodeReleaseDir:
		return true
	}
	return false
}

// next removes and returns the request whose turn it is, nil if none is queued. Pass it to done when it is carried out.
func (q *fairQueue) next() (request []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.user = !q.user
	switch {
	case len(q.order) > 0 && (q.user || q.nobody.empty()):
		uid := q.order[0]
		q.order = q.order[:copy(q.order, q.order[1:])]
		theirs := q.users[uid]
		if request = theirs.pop(); theirs.empty() {
			delete(q.users, uid)
		} else {
			q.order = append(q.order, uid)
		}
	case !q.nobody.empty():
		request = q.nobody.pop()
	default:
		return nil
	}
	q.bytes -= len(request)
	q.n.Add(-1)
	return request
}

// done reuses the buffer of a request that was carried out.
func (q *fairQueue) done(request []byte) {
	if cap(request) != turnBuffer {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.spare) < maxTurnBuffers {
		q.spare = append(q.spare, request[:0])
	}
}
