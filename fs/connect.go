//go:build linux

package fs

import (
	"bytes"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

const (
	// minRead is the least buffer that the kernel gives a request to (FUSE_MIN_READ_BUFFER).
	minRead = 8192
)

// connect readies the connection f.device for its requests. The kernel says INIT once: what it said is kept
// in the tables for the servers after this one, who must answer it alike.
func (f *FS) connect(options *fuse.MountOptions) error {
	head := f.Tables.Head
	if !f.Resumed() {
		request := make([]byte, minRead)
		var n int
		err := backing.Retry(func() (err error) {
			n, err = unix.Read(f.Device, request)
			return err
		})
		if err != nil {
			return fmt.Errorf("INIT: %w", err)
		}
		head.InitRequestSize = uint32(copy(head.InitRequest[:], request[:n]))
	}
	d, reply, err := newDevice(f, f.Device, head.InitRequest[:head.InitRequestSize], options)
	if err != nil {
		return err
	}
	if f.Resumed() {
		if !bytes.Equal(reply, head.InitReply[:head.InitReplySize]) {
			return ErrNegotiated
		}
	} else {
		if _, err := unix.Write(f.Device, reply); err != nil {
			return fmt.Errorf("answer to INIT: %w", err)
		}
		head.InitReplySize = uint32(copy(head.InitReply[:], reply))
	}
	f.served.Store(d)
	f.connected(d.settings.Flags64())
	return nil
}

// resend has the kernel send again what it was not answered.
func (f *FS) resend() error { return f.Notify(backing.NotifyResend) }
