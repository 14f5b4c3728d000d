//go:build linux

package fs

import (
	"bytes"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// dispatch carries out a request of the kinds of which there are most, those of a lock cycle among them, and writes the answer to
// out; n is how long that is, 0 if there is none. Any other it leaves to go-fuse, which allocates a KiB for each: is is false.
func (d *device) dispatch(request, out []byte) (n int, is bool) {
	header, ok := requestAs[fuse.InHeader](request)
	if !ok || d.debug || header.TotalExtlen != 0 {
		return 0, false
	}
	g := guard{d.fs}
	switch header.Opcode {
	case opcodeLookup:
		entry := answerAs[fuse.EntryOut](out)
		return answered(out, header, entry, g.Lookup(nil, header, nameIn(request, header), entry)), true
	case opcodeForget:
		if in, ok := requestAs[fuse.ForgetIn](request); ok {
			g.do(header, func() fuse.Status {
				d.fs.Forget(in.NodeId, in.Nlookup)
				return fuse.OK
			})
			return 0, true
		}
	case opcodeGetAttr:
		if in, ok := requestAs[fuse.GetAttrIn](request); ok {
			attr := answerAs[fuse.AttrOut](out)
			return answered(out, header, attr, g.GetAttr(nil, in, attr)), true
		}
	case opcodeUnlink:
		return answered(out, header, &struct{}{}, g.Unlink(nil, header, nameIn(request, header))), true
	case opcodeOpen:
		if in, ok := requestAs[fuse.OpenIn](request); ok {
			opened := answerAs[fuse.OpenOut](out)
			return answered(out, header, opened, g.Open(nil, in, opened)), true
		}
	case opcodeWrite:
		if in, ok := requestAs[fuse.WriteIn](request); ok {
			written := answerAs[fuse.WriteOut](out)
			size, code := g.Writev(nil, in, [][]byte{request[unsafe.Sizeof(*in):]})
			written.Size = size
			return answered(out, header, written, code), true
		}
	case opcodeRelease:
		if in, ok := requestAs[fuse.ReleaseIn](request); ok {
			g.Release(nil, in)
			return answered(out, header, &struct{}{}, fuse.OK), true
		}
	case opcodeCreate:
		if in, ok := requestAs[fuse.CreateIn](request); ok {
			created := answerAs[fuse.CreateOut](out)
			return answered(out, header, created, g.Create(nil, in, nameIn(request, in), created)), true
		}
	}
	return 0, false
}

// requestAs is the beginning of a request; false if it is shorter.
func requestAs[T any](request []byte) (*T, bool) {
	var size T
	if len(request) < int(unsafe.Sizeof(size)) {
		return nil, false
	}
	return (*T)(unsafe.Pointer(&request[0])), true
}

// nameIn is the name that follows the beginning of a request.
func nameIn[T any](request []byte, beginning *T) string {
	name, _, _ := bytes.Cut(request[unsafe.Sizeof(*beginning):], []byte{0})
	return string(name)
}

// answerAs is what follows the header of an answer, empty.
func answerAs[T any](out []byte) *T {
	answer := (*T)(unsafe.Pointer(&out[outHeaderSize]))
	var empty T
	*answer = empty
	return answer
}

// answered writes the header of an answer and returns how long all of it is: without what follows if it is an error.
func answered[T any](out []byte, in *fuse.InHeader, follows *T, code fuse.Status) int {
	n := outHeaderSize
	if code == fuse.OK {
		n += int(unsafe.Sizeof(*follows))
	}
	putHeader(out, n, code, in.Unique)
	return n
}
