//go:build linux

package channel

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Positions of the fields of a request that are read before it is parsed, in bytes (fuse(4)).
const (
	outHeaderSize = 16
	opcodeAt      = 4
	uniqueAt      = 8
	nodeAt        = 16
	uidAt         = 24
	callerAt      = 32
	bodyAt        = 40 // the body of a RELEASE begins with a file handle, that of an INTERRUPT with a request's number

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

// dispatch parses and carries out a request of one of the most frequent kinds, such as those of a lock cycle. It
// returns the length of the answer in out, 0 if the request has none. Taken is false for all other kinds, which are left
// to go-fuse.
func (s *Server) dispatch(header *fuse.InHeader, request, out []byte) (n int, taken bool) {
	if s.debug || header.TotalExtlen != 0 {
		return 0, false
	}
	h := s.handler
	switch header.Opcode {
	case opcodeLookup:
		entry := answerAs[fuse.EntryOut](out)
		return answered(out, header, entry, h.Lookup(nil, header, nameIn(request, header), entry)), true
	case opcodeForget:
		if in, ok := requestAs[fuse.ForgetIn](request); ok {
			h.Forget(in.NodeId, in.Nlookup)
			return 0, true
		}
	case opcodeGetAttr:
		if in, ok := requestAs[fuse.GetAttrIn](request); ok {
			attr := answerAs[fuse.AttrOut](out)
			return answered(out, header, attr, h.GetAttr(nil, in, attr)), true
		}
	case opcodeUnlink:
		return answered(out, header, &struct{}{}, h.Unlink(nil, header, nameIn(request, header))), true
	case opcodeOpen:
		if in, ok := requestAs[fuse.OpenIn](request); ok {
			opened := answerAs[fuse.OpenOut](out)
			return answered(out, header, opened, h.Open(nil, in, opened)), true
		}
	case opcodeWrite:
		if in, ok := requestAs[fuse.WriteIn](request); ok {
			written := answerAs[fuse.WriteOut](out)
			size, code := h.Writev(nil, in, [][]byte{request[unsafe.Sizeof(*in):]})
			written.Size = size
			return answered(out, header, written, code), true
		}
	case opcodeRelease:
		if in, ok := requestAs[fuse.ReleaseIn](request); ok {
			h.Release(nil, in)
			return answered(out, header, &struct{}{}, fuse.OK), true
		}
	case opcodeCreate:
		if in, ok := requestAs[fuse.CreateIn](request); ok {
			created := answerAs[fuse.CreateOut](out)
			return answered(out, header, created, h.Create(nil, in, nameIn(request, in), created)), true
		}
	}
	return 0, false
}

// requestAs returns the fixed part of a request. It reports false if the request is shorter.
func requestAs[T any](request []byte) (*T, bool) {
	var size T
	if len(request) < int(unsafe.Sizeof(size)) {
		return nil, false
	}
	return (*T)(unsafe.Pointer(&request[0])), true
}

// nameIn returns the name that follows the fixed part of a request.
func nameIn[T any](request []byte, fixed *T) string {
	name, _, _ := bytes.Cut(request[unsafe.Sizeof(*fixed):], []byte{0})
	return string(name)
}

// answerAs returns the cleared body of an answer.
func answerAs[T any](out []byte) *T {
	answer := (*T)(unsafe.Pointer(&out[outHeaderSize]))
	var empty T
	*answer = empty
	return answer
}

// answered writes the header of an answer and returns the length of the answer. An error has no body.
func answered[T any](out []byte, in *fuse.InHeader, body *T, code fuse.Status) int {
	n := outHeaderSize
	if code == fuse.OK {
		n += int(unsafe.Sizeof(*body))
	}
	putHeader(out, n, code, in.Unique)
	return n
}

// putHeader writes the header of an answer of n bytes.
func putHeader(out []byte, n int, code fuse.Status, unique uint64) {
	binary.NativeEndian.PutUint32(out, uint32(n))
	binary.NativeEndian.PutUint32(out[4:], uint32(-int32(code)))
	binary.NativeEndian.PutUint64(out[uniqueAt:], unique)
}
