//go:build linux

package fs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// minRead is the least buffer that the kernel gives a request to (FUSE_MIN_READ_BUFFER).
	minRead = 8192
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

// connect readies the connection f.device for its requests. The kernel says INIT once: what it said is kept
// in the tables for the servers after this one, who must answer it alike.
func (f *FS) connect(options *fuse.MountOptions) error {
	head := f.tables.head
	if !f.Resumed() {
		request := make([]byte, minRead)
		var n int
		err := retry(func() (err error) {
			n, err = unix.Read(f.device, request)
			return err
		})
		if err != nil {
			return fmt.Errorf("INIT: %w", err)
		}
		head.initRequestSize = uint32(copy(head.initRequest[:], request[:n]))
	}
	d, reply, err := newDevice(f, f.device, head.initRequest[:head.initRequestSize], options)
	if err != nil {
		return err
	}
	if f.Resumed() {
		if !bytes.Equal(reply, head.initReply[:head.initReplySize]) {
			return ErrNegotiated
		}
	} else {
		if _, err := unix.Write(f.device, reply); err != nil {
			return fmt.Errorf("answer to INIT: %w", err)
		}
		head.initReplySize = uint32(copy(head.initReply[:], reply))
	}
	f.served.Store(d)
	f.connected(d.settings.Flags64())
	return nil
}

// resend has the kernel send again what it was not answered.
func (f *FS) resend() error { return f.notify(notifyResend) }

// notify sends the kernel a notification: struct fuse_out_header of fuse(4), in which the code takes the place of
// an error and no request is answered, and what follows it.
func (f *FS) notify(code uint32, body ...uint64) error {
	message := make([]byte, outHeaderSize, outHeaderSize+8*len(body))
	for _, word := range body {
		message = binary.NativeEndian.AppendUint64(message, word)
	}
	binary.NativeEndian.PutUint32(message, uint32(len(message)))
	binary.NativeEndian.PutUint32(message[4:], code)
	_, err := unix.Write(f.device, message)
	return err
}

// fusermount mounts over the directory as an ordinary user and returns the descriptor of the
// connection (fusermount3(1)).
func fusermount(o MountOptions) (device int, err error) {
	program, err := helper()
	if err != nil {
		return -1, ErrNoHelper
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pair[0])
	remote := os.NewFile(uintptr(pair[1]), "fusermount3")
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	options := []string{"fsname=" + escape.Replace(o.Dir), "subtype=" + Subtype, "max_read=" + strconv.Itoa(maxWrite), "default_permissions"}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	for name := range o.Restrictions.each {
		options = append(options, name)
	}
	cmd := exec.Command(program, "-o", strings.Join(options, ","), "--", o.Dir)
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	said, err := cmd.CombinedOutput()
	remote.Close()
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(said)))
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 8), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	return fds[0], nil
}

// Passthrough registrations, of linux/fuse.h.
const (
	iocBackingOpen  = 0x4010e501 // FUSE_DEV_IOC_BACKING_OPEN
	iocBackingClose = 0x4004e502 // FUSE_DEV_IOC_BACKING_CLOSE
)

func openBacking(device, fd int) (id int32, err error) {
	request := fuse.BackingMap{Fd: int32(fd)}
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), iocBackingOpen, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return 0, errno
	}
	return int32(n), nil
}

func closeBacking(device int, id int32) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(device), iocBackingClose, uintptr(unsafe.Pointer(&id)))
	if errno != 0 {
		return errno
	}
	return nil
}
