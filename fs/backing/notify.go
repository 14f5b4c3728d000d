//go:build linux

package backing

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The notifications of fuse.h, and what follows their header.
const (
	// NotifyPoll is FUSE_NOTIFY_POLL: the number follows by which the kernel knows who polls a file.
	NotifyPoll = 1
	// notifyInvalInode is FUSE_NOTIFY_INVAL_INODE: a node id, an offset and a length follow.
	notifyInvalInode = 2
	// notifyStore is FUSE_NOTIFY_STORE: a node id, an offset, a length and as many bytes follow.
	notifyStore = 4
	// NotifyResend is FUSE_NOTIFY_RESEND (Linux 6.9): all requests that were read and not
	// answered come again.
	NotifyResend = 7
	// notifyPrune is FUSE_NOTIFY_PRUNE (Linux 6.18): as many node ids follow as the first word says, after one more
	// word. The kernel forgets those that nobody uses.
	notifyPrune = 9
)

// UniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const UniqueResent = 1 << 63

// headerSize is the size in bytes of struct fuse_out_header.
const headerSize = 16

// Notify sends the kernel a notification: struct fuse_out_header of fuse(4), in which the code takes the place of
// an error and no request is answered, and what follows it.
func (f *Directory) Notify(code uint32, body ...uint64) error {
	message := make([]byte, headerSize, headerSize+8*len(body))
	for _, word := range body {
		message = binary.NativeEndian.AppendUint64(message, word)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], code)
	_, err := unix.Write(f.Device, message)
	return err
}

// forgetAttributes makes the kernel ask for those of n again. That waits for nothing, as no pages
// are concerned.
func (f *Directory) forgetAttributes(n *Inode) {
	if f.Device >= 0 { // nothing is cached before
		// It answers ENOENT if the kernel has forgotten n meanwhile.
		const noOffset = ^uint64(0)
		_ = f.Notify(notifyInvalInode, n.ID, noOffset, 0)
	}
}
