//go:build linux

package channel

import (
	"encoding/binary"
	"maps"
	"runtime/debug"
	"slices"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// handle carries out a request and sends the answer.
func (s *Server) handle(request, out []byte) {
	if n := s.carryOut(request, out); n > 0 {
		s.write(out[:n])
	}
}

// carryOut carries out a request. It returns the length of the answer in out, 0 if there is none or it is sent later.
// This is the only place that recovers from a panic of the handler.
func (s *Server) carryOut(request, out []byte) (n int) {
	header := (*fuse.InHeader)(unsafe.Pointer(&request[0])) // the kernel sends no shorter request
	if s.handler.Refuses(header.Unique) {
		return failed(out, header)
	}
	defer func() {
		if problem := recover(); problem != nil {
			s.handler.Panicked(header.Unique, problem, debug.Stack())
			n = failed(out, header)
		}
	}()
	switch header.Opcode {
	case opcodeRead:
		if s.handler.AnswersLater(header.NodeId) && s.readLater(request) {
			return 0
		}
	case opcodePoll:
		if in, ok := requestAs[PollIn](request); ok {
			polled := answerAs[pollOut](out)
			var code fuse.Status
			polled.Revents, code = s.handler.Poll(in)
			return answered(out, header, polled, code)
		}
	case opcodeInterrupt:
		// It is not answered: after EAGAIN the kernel would send it again until the interrupted request is over.
		s.interrupt(binary.NativeEndian.Uint64(request[bodyAt:]))
		return 0
	}
	n, ok := s.dispatch(header, request, out)
	if !ok {
		// An error is about a malformed request, which is answered all the same.
		n, _ = s.protocol.HandleRequest([][]byte{request}, [][]byte{out})
	}
	return n
}

// failed answers a request with EIO, unless it is of a kind that is not answered.
func failed(out []byte, header *fuse.InHeader) (n int) {
	switch header.Opcode {
	case opcodeForget, opcodeBatchForget, opcodeInterrupt:
		return 0
	}
	return answered(out, header, &struct{}{}, fuse.EIO)
}

// readLater carries out a read that the handler may answer later. It reports whether the handler took it.
func (s *Server) readLater(request []byte) (taken bool) {
	begin, ok := requestAs[fuse.ReadIn](request)
	if !ok {
		return false
	}
	in := *begin     // the buffer of the request is reused before the answer
	replied := false // guarded by mu
	cancel := s.handler.ReadLater(&in, func(text []byte, code fuse.Status) {
		s.mu.Lock()
		replied = true
		delete(s.slow, in.Unique)
		s.mu.Unlock()
		s.reply(in.Unique, text[:min(len(text), int(in.Size))], code)
	})
	if cancel == nil {
		return false
	}
	s.mu.Lock()
	if !replied {
		s.slow[in.Unique] = cancel
	}
	over := s.ended.Load() || s.interrupted[in.Unique] || s.interruptedBefore[in.Unique]
	s.mu.Unlock()
	if over {
		cancel()
	}
	return true
}

// interrupt gives up the read of an interrupted caller, if it waits for an event or is about to. Any other request ends
// soon.
func (s *Server) interrupt(unique uint64) {
	s.mu.Lock()
	cancel := s.slow[unique]
	if cancel == nil {
		if len(s.interrupted) >= maxInterrupted && s.queued.n.Load() == 0 {
			s.interrupted, s.interruptedBefore = make(map[uint64]bool), s.interrupted
		}
		s.interrupted[unique] = true
	}
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// reply answers a read that waited.
func (s *Server) reply(unique uint64, text []byte, code fuse.Status) {
	out := make([]byte, outHeaderSize, outHeaderSize+len(text))
	if code == fuse.OK {
		out = append(out, text...)
	}
	putHeader(out, len(out), code, unique)
	s.write(out)
}

// write sends an answer to the kernel, which does not block.
func (s *Server) write(answer []byte) {
	_, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(s.fd), uintptr(unsafe.Pointer(&answer[0])), uintptr(len(answer)))
	switch errno {
	case 0, unix.ENOENT, unix.ENODEV: // the caller is gone
	default:
		s.log.WithError(errno).Warn("a request could not be answered")
	}
}

// end gives up the reads that wait, once the mount is gone.
func (s *Server) end(err error) {
	s.ended.Store(true)
	if err != unix.ENODEV && err != unix.EBADF { // EBADF: the server is ending
		s.log.WithError(err).Error("requests cannot be read any more")
	}
	s.mu.Lock()
	waiting := slices.Collect(maps.Values(s.slow))
	s.mu.Unlock()
	for _, cancel := range waiting {
		cancel()
	}
}
