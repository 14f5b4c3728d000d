//go:build linux

package backing

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The notifications of fuse.h, and the words of their bodies.
const (
	// NotifyPoll is FUSE_NOTIFY_POLL: the number by which the kernel knows a poll.
	NotifyPoll = 1
	// notifyInvalInode is FUSE_NOTIFY_INVAL_INODE: a node id, an offset and a length.
	notifyInvalInode = 2
	// notifyStore is FUSE_NOTIFY_STORE: a node id, an offset, a length and as many bytes.
	notifyStore = 4
	// NotifyResend is FUSE_NOTIFY_RESEND (Linux 6.9): the kernel sends all requests again that were read and not
	// answered.
	NotifyResend = 7
	// notifyPrune is FUSE_NOTIFY_PRUNE (Linux 6.18): the number of node ids, an unused word, and the node ids. The
	// kernel forgets those that are unused.
	notifyPrune = 9
)

// UniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const UniqueResent = 1 << 63

// headerSize is the size in bytes of struct fuse_out_header.
const headerSize = 16

// Notify sends the kernel a notification: struct fuse_out_header of fuse(4), with the code in the place of an error
// and no request, and a body.
func (d *Directory) Notify(code uint32, body ...uint64) error {
	message := make([]byte, headerSize, headerSize+8*len(body))
	for _, word := range body {
		message = binary.NativeEndian.AppendUint64(message, word)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], code)
	_, err := unix.Write(d.Device, message)
	return err
}

// forgetAttributes has the kernel forget the attributes of n. The call waits for nothing, because it concerns no
// pages.
func (d *Directory) forgetAttributes(n *Inode) {
	if d.Device >= 0 { // nothing is cached before
		// The kernel answers ENOENT if it has forgotten n in the meantime.
		const noOffset = ^uint64(0)
		_ = d.Notify(notifyInvalInode, n.ID, noOffset, 0)
	}
}
