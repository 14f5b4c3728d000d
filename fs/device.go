//go:build linux

package fs

import (
	"encoding/binary"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/mountpoint"
)

// Requests are read and answered here, and taken apart by go-fuse in between (fuse.ProtocolServer) but for the most frequent: its own
// server wakes two threads for each, which is half of what a request costs. Here one goroutine, the
// leader, reads a request and carries it out itself. While requests come one after another it looks for
// the next one without sleeping, for spinTime; then it sleeps. A request that takes longer than patience is left
// to that goroutine, and another leads. Where requests are waiting already, helpers read them too. A read
// that waits for other processes is answered by who brings about what it waits for.
const (
	// spinTime is more than a program takes from one answer to its next request, and less than
	// what it costs to be woken twice.
	spinTime = 50 * time.Microsecond
	patience = time.Millisecond
	// idleTicks is after how many times patience without a request nobody looks after the leader any
	// more.
	idleTicks = 10
	// helpAfter is how many requests in a row were waiting when a helper is called.
	helpAfter = 4
	// crowdedAfter is how many requests in a row were waiting when the users are served in turn.
	crowdedAfter = 32
	// maxDeferred is how many requests for which nobody waits are put off at most. They keep descriptors open.
	maxDeferred = 4
	// headSpace is how much longer than its payload a request or an answer may be.
	headSpace = minRead
	// maxSmall is the longest request that is copied.
	maxSmall = 4096
	// maxInterrupted is more than can be interrupted between being read and waiting, while no request is queued.
	maxInterrupted = 64
	// spareReaders is how many are kept: to unmap the memory of one interrupts all processors.
	spareReaders = 2
)

// device serves an open /dev/fuse.
type device struct {
	fs       *FS
	fd       int
	protocol *fuse.ProtocolServer
	settings fuse.InitIn
	debug    bool // go-fuse logs each request

	began    atomic.Int64 // when the leader took its request, in ns; 0 while it has none, or leads no more
	watched  atomic.Bool  // somebody looks after the leader
	helpers  atomic.Int32
	ended    atomic.Bool // the mount is gone
	running  sync.WaitGroup
	maxHelps int32 // helpers at a time; 0 on one processor
	queued   fairQueue

	mu    sync.Mutex
	spare []*reader
	slow  map[uint64]func() // how to give up the requests that wait for other processes
	// interrupted are the last requests that were to be given up and were not among slow, or not yet; those before them
	// are in interruptedBefore.
	interrupted, interruptedBefore map[uint64]bool
	lead                           *reader // the leader's
}

// reader is what a goroutine that reads requests has.
type reader struct {
	in       []byte // what requests are read into; guarded by device.mu where another takes it
	small    []byte // what short ones are copied to, so that in can be another's while one is carried out
	large    atomic.Bool
	out      []byte   // what they are answered
	deferred [][]byte // requests that were put off
	caller   uint32   // the thread that made the last request
}

// newDevice takes what the kernel said in INIT.
func newDevice(f *FS, fd int, init []byte, options *fuse.MountOptions) (d *device, answer []byte, err error) {
	d = &device{fs: f, fd: fd, protocol: fuse.NewProtocolServer(guard{f}, options), debug: options.Debug, slow: make(map[uint64]func()), interrupted: make(map[uint64]bool)}
	d.maxHelps = int32(min(runtime.GOMAXPROCS(0), runtime.NumCPU()) - 1)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&d.settings)), unsafe.Sizeof(d.settings)), init)
	answer = make([]byte, minRead)
	n, status := d.protocol.HandleRequest([][]byte{init}, [][]byte{answer})
	if !status.Ok() || n < outHeaderSize {
		return nil, nil, fmt.Errorf("INIT: %v", status)
	}
	return d, answer[:n], nil
}

// serve answers requests until the mount is gone.
func (d *device) serve() error {
	if err := unix.SetNonblock(d.fd, true); err != nil {
		return err
	}
	d.running.Add(1)
	go d.leadFrom(nil)
	d.running.Wait()
	return nil
}

// newReader makes a reader, with a buffer or nil for another one.
func (d *device) newReader(in []byte) *reader {
	if in == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if n := len(d.spare); n > 0 {
			r := d.spare[n-1]
			d.spare = d.spare[:n-1]
			return r
		}
		in = newBuffer(unix.MAP_POPULATE)
	}
	return &reader{in: in, small: make([]byte, maxSmall), out: newBuffer(0)}
}

// newBuffer is memory for the largest request or answer. What requests are read into is there from the beginning: where
// a page is not, a server that is killed while it reads fails the request, since the kernel cannot bring the page in
// for a process that is ending, and answers EIO (fuse_dev_do_read).
func newBuffer(populate int) []byte {
	b, err := unix.Mmap(-1, 0, mountpoint.MaxRequest+headSpace, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|populate)
	if err != nil {
		panic(fmt.Sprintf("no memory for requests: %v", err))
	}
	return b
}

// closeReader keeps it for another, or gives its memory back.
func (d *device) closeReader(r *reader) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead == r {
		d.lead = nil // its buffer is not to be taken any more
	}
	if r.in != nil && len(d.spare) < spareReaders && !d.ended.Load() {
		r.large.Store(false)
		r.caller = 0
		d.spare = append(d.spare, r)
		return
	}
	// They are mappings, so this cannot fail.
	if r.in != nil {
		_ = unix.Munmap(r.in)
	}
	_ = unix.Munmap(r.out)
}

// now is a monotonic time, in ns, and never 0.
func now() int64 { return int64(backing.MonotonicNow()) | 1 }

// leadFrom reads and carries out requests until another leads or the mount is gone. In is a buffer to read into, or nil.
func (d *device) leadFrom(in []byte) {
	defer d.running.Done()
	r := d.newReader(in)
	defer d.closeReader(r)
	defer d.doDeferred(r, maxDeferred)
	d.mu.Lock()
	d.lead = r
	d.mu.Unlock()
	leads, inARow, answered := true, 0, false
	for leads {
		if request := d.turn(r); request != nil {
			inARow, answered = 0, false
			leads = d.busy(func() {
				d.doDeferred(r, maxDeferred)
				d.carryOut(request, r)
			})
			continue
		}
		n, err := d.read(r.in)
		if err == nil {
			if inARow++; inARow >= helpAfter {
				d.callHelper()
			}
			if inARow == crowdedAfter {
				d.queue(r, n)
				continue
			}
		} else if inARow = 0; err == unix.EAGAIN && (!answered || len(r.deferred) == 0) {
			n, err = d.spin(r.in)
		} // else who was answered is being woken, which takes longer than what was put off
		switch {
		case err == nil:
		case err != unix.EAGAIN:
			d.end(err)
			return
		case len(r.deferred) > 0:
			answered = false
			leads = d.busy(func() { d.doDeferred(r, 1) })
			continue
		default:
			// Errors are found by the next read.
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, -1)
			continue
		}
		request := d.take(r, n) // before anybody may take the buffer
		leads = d.busy(func() {
			if answered = !d.defers(r, request); answered {
				d.handle(request, r.out)
			} else if len(r.deferred) == maxDeferred {
				d.doDeferred(r, 1)
			}
		})
	}
}

// turn is the request whose turn it is, nil unless some are queued. Those that the kernel has by now are queued before.
func (d *device) turn(r *reader) (request []byte) {
	if d.queued.n.Load() == 0 {
		return nil
	}
	if n, err := d.read(r.in); err == nil {
		d.queue(r, n)
	}
	return d.queued.next()
}

// queue queues the request of n bytes that r has read, and those that wait in the kernel.
func (d *device) queue(r *reader, n int) {
	for err := error(nil); err == nil; n, err = d.read(r.in) {
		request := r.in[:n]
		opcode := binary.NativeEndian.Uint32(request[opcodeAt:])
		d.fs.requests.count(opcode)
		if opcode == opcodeInterrupt {
			d.handle(request, r.out)
		} else if !d.queued.add(request) {
			return
		}
	}
}

// carryOut carries out a request that was queued.
func (d *device) carryOut(request []byte, r *reader) {
	d.handle(request, r.out)
	d.queued.done(request)
}

// busy carries something out as the leader. It says whether it still is that: if not, another has taken its place, and
// maybe its buffer.
func (d *device) busy(do func()) (leads bool) {
	began := now()
	d.began.Store(began)
	d.lookAfter()
	do()
	return d.began.CompareAndSwap(began, 0)
}

// take counts the request of n bytes that r has read and returns it.
func (d *device) take(r *reader, n int) []byte {
	request := r.take(n)
	d.fs.requests.count(binary.NativeEndian.Uint32(request[opcodeAt:]))
	return request
}

// take is the request of n bytes that was read, out of the way of the next one if it is short.
func (r *reader) take(n int) []byte {
	if n > len(r.small) {
		r.large.Store(true)
		return r.in[:n]
	}
	r.large.Store(false)
	return r.small[:copy(r.small, r.in[:n])]
}

// spin reads a request that comes within spinTime, without sleeping; EAGAIN if none does.
func (d *device) spin(in []byte) (n int, err error) {
	err = unix.EAGAIN
	if d.maxHelps == 0 || !d.watched.Load() { // one processor, or nobody has asked for long
		return 0, err
	}
	for from := now(); err == unix.EAGAIN && now()-from < int64(spinTime); {
		n, err = d.read(in)
	}
	return n, err
}

// defers puts a request off if nobody waits for it: a RELEASE or FORGET, which comes just before
// the next request of who closed the file. Before a request of anybody else what was put off is carried out.
func (d *device) defers(r *reader, request []byte) bool {
	switch binary.NativeEndian.Uint32(request[opcodeAt:]) {
	case opcodeRelease:
		if !d.fs.releasedBy(binary.NativeEndian.Uint64(request[bodyAt:]), r.caller) {
			return false
		}
	case opcodeForget:
	default:
		if caller := binary.NativeEndian.Uint32(request[callerAt:]); caller != r.caller {
			d.doDeferred(r, maxDeferred)
			r.caller = caller
		}
		return false
	}
	r.deferred = append(r.deferred, append([]byte(nil), request...))
	return true
}

// doDeferred carries out the first n of what was put off.
func (d *device) doDeferred(r *reader, n int) {
	n = min(n, len(r.deferred))
	for _, request := range r.deferred[:n] {
		d.answer(request, r.out)
	}
	r.deferred = append(r.deferred[:0], r.deferred[n:]...)
}

// read reads a request, without waiting: EAGAIN if there is none. Nothing of it can block, so it does
// without what the Go runtime does at a system call.
func (d *device) read(in []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(d.fd), uintptr(unsafe.Pointer(&in[0])), uintptr(len(in)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.ENOENT: // ENOENT: it was given up while it was read
			continue
		}
		return 0, errno
	}
}

// callHelper has another goroutine read requests too, while there are any.
func (d *device) callHelper() {
	if d.helpers.Add(1) > d.maxHelps {
		d.helpers.Add(-1)
		return
	}
	d.running.Add(1)
	go func() {
		defer d.running.Done()
		defer d.helpers.Add(-1)
		r := d.newReader(nil)
		defer d.closeReader(r)
		for {
			if request := d.turn(r); request != nil {
				d.carryOut(request, r)
				continue
			}
			n, err := d.read(r.in)
			if err != nil {
				return // the leader sees what is wrong
			}
			d.handle(d.take(r, n), r.out)
		}
	}()
}

// lookAfter makes sure that somebody sees when the leader is busy for long.
func (d *device) lookAfter() {
	if d.watched.Load() || d.watched.Swap(true) {
		return
	}
	d.running.Add(1)
	go func() {
		defer d.running.Done()
		last := int64(0)
		for idle := 0; idle < idleTicks && !d.ended.Load(); {
			time.Sleep(patience)
			began := d.began.Load()
			if began == 0 {
				idle++
				continue
			}
			if idle = 0; began == last && d.began.CompareAndSwap(began, 0) {
				d.running.Add(1)
				go d.leadFrom(d.takeBuffer())
			}
			last = began
		}
		d.watched.Store(false)
		if d.began.Load() != 0 {
			d.lookAfter() // it began meanwhile
		}
	}()
}

// takeBuffer takes the buffer of the leader that was, unless that is still carrying out what is in it.
func (d *device) takeBuffer() (in []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.lead != nil && !d.lead.large.Load() {
		in, d.lead.in = d.lead.in, nil
	}
	return in
}

// The parts of a request's header and body that are looked at here (fuse(4)).
const (
	outHeaderSize = 16
	opcodeAt      = 4
	uniqueAt      = 8
	nodeAt        = 16
	uidAt         = 24
	callerAt      = 32
	bodyAt        = 40 // begins with the handle of a RELEASE, the number of an INTERRUPT

	opcodeLookup      = 1
	opcodeForget      = 2
	opcodeGetAttr     = 3
	opcodeUnlink      = 10
	opcodeOpen        = 14
	opcodeRead        = 15
	opcodeWrite       = 16
	opcodeRelease     = 18
	opcodeReleaseDir  = 29
	opcodeCreate      = 35
	opcodeInterrupt   = 36
	opcodePoll        = 40
	opcodeBatchForget = 42
)

// handle carries out a request.
func (d *device) handle(request, out []byte) {
	switch binary.NativeEndian.Uint32(request[opcodeAt:]) {
	case opcodeRead:
		if isControl(binary.NativeEndian.Uint64(request[nodeAt:])) && d.handleSlow(request) {
			return
		}
	case opcodePoll:
		d.poll(request, out)
		return
	case opcodeInterrupt:
		// It is not answered: on EAGAIN the kernel would send it again and again until the request is over.
		d.interrupt(binary.NativeEndian.Uint64(request[bodyAt:]))
		return
	}
	d.answer(request, out)
}

// handleSlow carries out a read that is answered when something happens. It says whether it is one.
func (d *device) handleSlow(request []byte) (is bool) {
	var in fuse.ReadIn
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&in)), unsafe.Sizeof(in)), request)
	replied := false // guarded by mu
	reply := func(text []byte, err error) {
		d.mu.Lock()
		replied = true
		delete(d.slow, in.Unique)
		d.mu.Unlock()
		d.reply(in.Unique, text[:min(len(text), int(in.Size))], status(err))
	}
	var cancel func()
	if code := (guard{d.fs}).do(&in.InHeader, func() fuse.Status {
		cancel = d.fs.control.slow(&in, reply)
		return fuse.OK
	}); code != fuse.OK {
		d.reply(in.Unique, nil, code)
		return true
	}
	if cancel == nil {
		return false
	}
	d.mu.Lock()
	if !replied {
		d.slow[in.Unique] = cancel
	}
	over := d.ended.Load() || d.interrupted[in.Unique] || d.interruptedBefore[in.Unique]
	d.mu.Unlock()
	if over {
		cancel()
	}
	return true
}

// interrupt gives a request up whose caller was interrupted, if it waits for other processes or is about to. Any other is
// over soon.
func (d *device) interrupt(unique uint64) {
	d.mu.Lock()
	cancel := d.slow[unique]
	if cancel == nil {
		if len(d.interrupted) >= maxInterrupted && d.queued.n.Load() == 0 {
			d.interrupted, d.interruptedBefore = make(map[uint64]bool), d.interrupted
		}
		d.interrupted[unique] = true
	}
	d.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// reply answers a read.
func (d *device) reply(unique uint64, text []byte, code fuse.Status) {
	out := make([]byte, outHeaderSize, outHeaderSize+len(text))
	if code == fuse.OK {
		out = append(out, text...)
	}
	putHeader(out, len(out), code, unique)
	d.write(out)
}

// putHeader writes the header of an answer of n bytes.
func putHeader(out []byte, n int, code fuse.Status, unique uint64) {
	binary.NativeEndian.PutUint32(out, uint32(n))
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(code)))
	binary.NativeEndian.PutUint64(out[uniqueAt:], unique)
}

// answer carries out a request and writes what it is answered to out.
func (d *device) answer(request, out []byte) {
	n, is := d.dispatch(request, out)
	if !is {
		// Its errors are those of requests that make no sense; there is an answer all the same.
		n, _ = d.protocol.HandleRequest([][]byte{request}, [][]byte{out})
	}
	if n == 0 {
		return
	}
	d.write(out[:n])
}

// write passes an answer on to the kernel, which does not block.
func (d *device) write(answer []byte) {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(d.fd), uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)))
	switch errno {
	case 0, unix.ENOENT, unix.ENODEV: // who asked does not any more
	default:
		d.fs.log.WithError(errno).Warn("a request could not be answered")
	}
}

// end ends what waits, once the mount is gone.
func (d *device) end(err error) {
	d.ended.Store(true)
	if err != unix.ENODEV {
		d.fs.log.WithError(err).Error("requests cannot be read any more")
	}
	d.mu.Lock()
	waiting := slices.Collect(maps.Values(d.slow))
	d.mu.Unlock()
	for _, cancel := range waiting {
		cancel()
	}
}
