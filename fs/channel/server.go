//go:build linux

package channel

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// One goroutine, the leader, reads a request and carries it out itself. After a request it looks for the next one
// without sleeping for spinTime; then it sleeps. If a request takes longer than patience, another goroutine becomes the
// leader and the first one only finishes its request. If requests are already waiting, helpers read them too.
const (
	// spinTime is more than a program takes from one answer to its next request, and less than two wake-ups cost.
	spinTime = 50 * time.Microsecond
	patience = time.Millisecond
	// idleTicks is the number of patience intervals without a request after which the leader is no longer watched.
	idleTicks = 10
	// helpAfter is the number of consecutive requests found waiting after which a helper is started.
	helpAfter = 4
	// crowdedAfter is the number of consecutive requests found waiting after which users are served in turn.
	crowdedAfter = 32
	// maxDeferred bounds the requests that are put off because no caller waits for them. They keep descriptors open.
	maxDeferred = 4
	// maxInterrupted is more than the number of requests that can be interrupted after they were read and before they
	// wait, while no request is queued.
	maxInterrupted = 64
)

// Server serves an open /dev/fuse.
type Server struct {
	handler  Handler
	fd       int
	protocol *fuse.ProtocolServer
	settings fuse.InitIn
	debug    bool // go-fuse logs each request
	log      logrus.FieldLogger
	requests requestCounts

	began    atomic.Int64 // when the leader took its request, in ns; 0 while it has none, or if it no longer leads
	watched  atomic.Bool  // a goroutine watches the leader
	helpers  atomic.Int32
	ended    atomic.Bool // the mount is gone
	running  sync.WaitGroup
	maxHelps int32 // helpers at a time; 0 on one processor
	queued   fairQueue

	mu    sync.Mutex
	spare []*reader
	slow  map[uint64]func() // by request, how to give up a read that waits
	// interrupted are the latest interrupted requests that were not in slow, or not yet. interruptedBefore are those
	// before them.
	interrupted, interruptedBefore map[uint64]bool
	lead                           *reader // the leader's
}

// ReadInit reads the INIT request, the first one of a connection.
func ReadInit(fd int) ([]byte, error) {
	request := make([]byte, minRead)
	for {
		n, err := unix.Read(fd, request)
		if err == nil {
			return request[:n], nil
		}
		if err != unix.EINTR {
			return nil, fmt.Errorf("INIT: %w", err)
		}
	}
}

// New returns a server of the connection fd and its answer to the INIT request, which is not yet sent.
func New(fd int, init []byte, h Handler, options fuse.MountOptions, log logrus.FieldLogger) (*Server, []byte, error) {
	// go-fuse recovers from panics. It passes them on to carryOut.
	options.PanicHandler = func(problem any) fuse.Status { panic(problem) }
	s := newServer(fd, h, log)
	s.protocol, s.debug = fuse.NewProtocolServer(h, &options), options.Debug
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&s.settings)), unsafe.Sizeof(s.settings)), init)
	answer := make([]byte, minRead)
	n, status := s.protocol.HandleRequest([][]byte{init}, [][]byte{answer})
	if !status.Ok() || n < outHeaderSize {
		return nil, nil, fmt.Errorf("INIT: %v", status)
	}
	return s, answer[:n], nil
}

func newServer(fd int, h Handler, log logrus.FieldLogger) *Server {
	return &Server{
		handler: h, fd: fd, log: log, slow: make(map[uint64]func()), interrupted: make(map[uint64]bool),
		maxHelps: int32(min(runtime.GOMAXPROCS(0), runtime.NumCPU()) - 1),
	}
}

// Offers returns the capabilities that the kernel offered in INIT (fuse.CAP_*).
func (s *Server) Offers() uint64 { return s.settings.Flags64() }

// Serve answers requests until the mount is gone.
func (s *Server) Serve() error {
	if err := unix.SetNonblock(s.fd, true); err != nil {
		return err
	}
	s.running.Add(1)
	go s.leadFrom(nil)
	s.running.Wait()
	return nil
}

var processStart = time.Now()

// now returns a monotonic time in ns, never 0.
func now() int64 { return int64(time.Since(processStart)) | 1 }

// leadFrom reads and carries out requests until another goroutine leads or the mount is gone. It reads into the buffer
// in, or into a new one if in is nil.
func (s *Server) leadFrom(in []byte) {
	defer s.running.Done()
	r := s.newReader(in)
	defer s.closeReader(r)
	defer s.doDeferred(r, maxDeferred)
	s.mu.Lock()
	s.lead = r
	s.mu.Unlock()
	leads, inARow, answered := true, 0, false
	for leads {
		if request := s.turn(r); request != nil {
			inARow, answered = 0, false
			leads = s.busy(func() {
				s.doDeferred(r, maxDeferred)
				s.handle(request, r.out)
				s.queued.done(request)
			})
			continue
		}
		n, err := s.read(r.in)
		if err == nil {
			if inARow++; inARow >= helpAfter {
				s.callHelper()
			}
			if inARow == crowdedAfter {
				s.queue(r, n)
				continue
			}
		} else if inARow = 0; err == unix.EAGAIN && (!answered || len(r.deferred) == 0) {
			n, err = s.spin(r.in)
		} // else the caller is being woken, which takes longer than the deferred requests
		switch {
		case err == nil:
		case err != unix.EAGAIN:
			s.end(err)
			return
		case len(r.deferred) > 0:
			answered = false
			leads = s.busy(func() { s.doDeferred(r, 1) })
			continue
		default:
			// The next read finds errors.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, -1)
			continue
		}
		request := s.take(r, n) // before another goroutine may take the buffer
		leads = s.busy(func() {
			if answered = !s.defers(r, request); answered {
				s.handle(request, r.out)
			} else if len(r.deferred) == maxDeferred {
				s.doDeferred(r, 1)
			}
		})
	}
}

// turn returns the queued request whose turn it is, nil if none is queued. It first queues the requests that wait in
// the kernel.
func (s *Server) turn(r *reader) (request []byte) {
	if s.queued.n.Load() == 0 {
		return nil
	}
	if n, err := s.read(r.in); err == nil {
		s.queue(r, n)
	}
	return s.queued.next()
}

// queue queues the request of n bytes that r has read, and the requests that wait in the kernel.
func (s *Server) queue(r *reader, n int) {
	for err := error(nil); err == nil; n, err = s.read(r.in) {
		request := r.in[:n]
		opcode := binary.NativeEndian.Uint32(request[opcodeAt:])
		s.requests.count(opcode)
		switch opcode {
		case opcodeInterrupt, opcodeForget, opcodeBatchForget:
			// They are short, and the kernel does not send them again if this server dies.
			s.handle(request, r.out)
		default:
			if !s.queued.add(request) {
				return
			}
		}
	}
}

// busy carries something out as the leader. It reports whether this goroutine still leads; if not, another one may have
// taken its buffer.
func (s *Server) busy(do func()) (leads bool) {
	began := now()
	s.began.Store(began)
	s.lookAfter()
	do()
	return s.began.CompareAndSwap(began, 0)
}

// take counts the request of n bytes that r has read and returns it.
func (s *Server) take(r *reader, n int) []byte {
	request := r.take(n)
	s.requests.count(binary.NativeEndian.Uint32(request[opcodeAt:]))
	return request
}

// spin reads a request that arrives within spinTime, without sleeping. It returns EAGAIN if none does.
func (s *Server) spin(in []byte) (n int, err error) {
	err = unix.EAGAIN
	if s.maxHelps == 0 || !s.watched.Load() { // one processor, or no recent request
		return 0, err
	}
	for from := now(); err == unix.EAGAIN && now()-from < int64(spinTime); {
		n, err = s.read(in)
	}
	return n, err
}

// defers puts a request off if no caller waits for it. It reports whether it did. RELEASE and FORGET are such requests;
// they arrive just before the next request of the thread that closed the file. Deferred requests are carried out before
// a request of another thread.
func (s *Server) defers(r *reader, request []byte) bool {
	switch binary.NativeEndian.Uint32(request[opcodeAt:]) {
	case opcodeRelease:
		if !s.handler.MayDefer(binary.NativeEndian.Uint64(request[bodyAt:]), r.caller) {
			return false
		}
	case opcodeForget:
	default:
		if caller := binary.NativeEndian.Uint32(request[callerAt:]); caller != r.caller {
			s.doDeferred(r, maxDeferred)
			r.caller = caller
		}
		return false
	}
	r.deferred = append(r.deferred, append([]byte(nil), request...))
	return true
}

// doDeferred carries out the first n deferred requests.
func (s *Server) doDeferred(r *reader, n int) {
	n = min(n, len(r.deferred))
	for _, request := range r.deferred[:n] {
		s.handle(request, r.out)
	}
	r.deferred = append(r.deferred[:0], r.deferred[n:]...)
}

// read reads a request without waiting. It returns EAGAIN if there is none. The system call cannot block, so it skips
// the Go runtime's preparations for blocking calls.
func (s *Server) read(in []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(s.fd), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.ENOENT: // ENOENT: the caller gave the request up while it was read
			continue
		}
		return 0, errno
	}
}

// callHelper starts another goroutine that reads requests until none is waiting.
func (s *Server) callHelper() {
	if s.helpers.Add(1) > s.maxHelps {
		s.helpers.Add(-1)
		return
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		defer s.helpers.Add(-1)
		r := s.newReader(nil)
		defer s.closeReader(r)
		for {
			if request := s.turn(r); request != nil {
				s.handle(request, r.out)
				s.queued.done(request)
				continue
			}
			n, err := s.read(r.in)
			if err != nil {
				return // the leader finds the error
			}
			s.handle(s.take(r, n), r.out)
		}
	}()
}

// lookAfter makes sure that a goroutine watches the leader and starts another leader if a request takes too long.
func (s *Server) lookAfter() {
	if s.watched.Load() || s.watched.Swap(true) {
		return
	}
	s.running.Add(1)
	go func() {
		defer s.running.Done()
		last := int64(0)
		for idle := 0; idle < idleTicks && !s.ended.Load(); {
			time.Sleep(patience)
			began := s.began.Load()
			if began == 0 {
				idle++
				continue
			}
			if idle = 0; began == last && s.began.CompareAndSwap(began, 0) {
				s.running.Add(1)
				go s.leadFrom(s.takeBuffer())
			}
			last = began
		}
		s.watched.Store(false)
		if s.began.Load() != 0 {
			s.lookAfter() // a request was taken since the last look
		}
	}()
}
