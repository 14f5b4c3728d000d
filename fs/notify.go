//go:build linux

package fs

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The notifications of fuse.h, and what follows their header.
const (
	// notifyPoll is FUSE_NOTIFY_POLL: the number follows by which the kernel knows who polls a file.
	notifyPoll = 1
	// notifyInvalInode is FUSE_NOTIFY_INVAL_INODE: a node id, an offset and a length follow.
	notifyInvalInode = 2
	// notifyStore is FUSE_NOTIFY_STORE: a node id, an offset, a length and as many bytes follow.
	notifyStore = 4
	// notifyResend is FUSE_NOTIFY_RESEND (Linux 6.9): all requests that were read and not
	// answered come again.
	notifyResend = 7
	// notifyPrune is FUSE_NOTIFY_PRUNE (Linux 6.18): as many node ids follow as the first word says, after one more
	// word. The kernel forgets those that nobody uses.
	notifyPrune = 9
)

// uniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const uniqueResent = 1 << 63

// headerSize is the size in bytes of struct fuse_out_header.
const headerSize = 16

// notify sends the kernel a notification: struct fuse_out_header of fuse(4), in which the code takes the place of
// an error and no request is answered, and what follows it.
func (f *Directory) notify(code uint32, body ...uint64) error {
	message := make([]byte, headerSize, headerSize+8*len(body))
	for _, word := range body {
		message = binary.NativeEndian.AppendUint64(message, word)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], code)
	_, err := unix.Write(f.device, message)
	return err
}

// forgetAttributes makes the kernel ask for those of n again. That waits for nothing, as no pages
// are concerned.
func (f *Directory) forgetAttributes(n *inode) {
	if f.device >= 0 { // nothing is cached before
		// It answers ENOENT if the kernel has forgotten n meanwhile.
		const noOffset = ^uint64(0)
		_ = f.notify(notifyInvalInode, n.id, noOffset, 0)
	}
}
