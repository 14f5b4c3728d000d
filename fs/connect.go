//go:build linux

package fs

import (
	"bytes"
	"fmt"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
)

// connect prepares the connection to the kernel for requests. The kernel sends INIT only once, so the tables keep it
// for later servers, which must answer it in the same way.
func (f *FS) connect(options fuse.MountOptions) error {
	head := f.Tables.Head
	if !f.Resumed() {
		request, err := channel.ReadInit(f.Device)
		if err != nil {
			return err
		}
		head.InitRequestSize = uint32(copy(head.InitRequest[:], request))
	}
	s, reply, err := channel.New(f.Device, head.InitRequest[:head.InitRequestSize], f, options, f.log)
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
	f.served.Store(s)
	f.connected(s.Offers())
	return nil
}
