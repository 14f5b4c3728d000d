//go:build linux

package channel

import (
	"encoding/binary"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The notifications that a server sends (enum fuse_notify_code in linux/fuse.h).
const (
	// NotifyPoll is FUSE_NOTIFY_POLL. The kernel's number of the polled file follows (PollIn.Kh).
	NotifyPoll = 1
	// NotifyInvalInode is FUSE_NOTIFY_INVAL_INODE. A node id, an offset and a length follow.
	NotifyInvalInode = 2
	// NotifyStore is FUSE_NOTIFY_STORE. A node id, an offset, a length and as many bytes follow.
	NotifyStore = 4
	// NotifyResend is FUSE_NOTIFY_RESEND (Linux 6.9): the kernel sends again all requests that were read and not
	// answered.
	NotifyResend = 7
	// NotifyPrune is FUSE_NOTIFY_PRUNE (Linux 6.18). The number of node ids, a zero word, and the node ids follow. The
	// kernel forgets those that are not in use.
	NotifyPrune = 9
)

// UniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const UniqueResent = 1 << 63

// Notify sends the kernel a notification over the connection fd: struct fuse_out_header of fuse(4) with the code in
// place of an error and 0 as the number of the request, and then the words of its body.
func Notify(fd int, code uint32, body ...uint64) error {
	message := make([]byte, outHeaderSize, outHeaderSize+8*len(body))
	for _, word := range body {
		message = binary.NativeEndian.AppendUint64(message, word)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], code)
	_, err := unix.Write(fd, message)
	return err
}

// The ioctls that register a file for passthrough (linux/fuse.h).
const (
	iocBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	iocBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

// OpenBacking registers the open file fd for passthrough on the connection device and returns its backing id.
func OpenBacking(device, fd int) (id int32, err error) {
	request := fuse.BackingMap{Fd: int32(fd)}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), iocBackingOpen, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return 0, errno
	}
	return int32(n), nil
}

// CloseBacking gives a backing id back.
func CloseBacking(device int, id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), iocBackingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return errno
	}
	return nil
}
