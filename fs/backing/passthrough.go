//go:build linux

package backing

import (
	"sync"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// opens is how an inode is open now. The kernel refuses to mix opens that go through the
// page cache with passthrough ones, and wants one backing id for all of the latter. It
// forgets an open before it sends the RELEASE, so what is counted here is never less
// than what it counts.
type opens struct {
	mu          sync.Mutex
	direct      int32 // not by the page cache
	cached      int32
	passthrough int32 // some of the direct ones too
	backingID   int32 // registered while passthrough > 0
}

// took counts a handle that another server opened.
func (o *opens) took(h *Handle, backing int32) {
	switch {
	case h.Direct:
		o.direct++
	case !h.Passthrough:
		o.cached++
	}
	if h.Passthrough {
		o.passthrough++
		o.backingID = backing
	}
}

// Any says whether there are any.
func (o *opens) Any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.direct+o.cached+o.passthrough > 0
}

// DirectOpen opens n without the page cache. While n is open with passthrough this open has to be that
// too, and says so; its reads and writes come by here all the same (fuse_file_read_iter).
func (f *Directory) DirectOpen(n *Inode, out *fuse.OpenOut) (passthrough bool) {
	o := &n.Opens
	o.mu.Lock()
	defer o.mu.Unlock()
	o.direct++
	out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	if o.passthrough == 0 {
		return false
	}
	o.passthrough++
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH
	out.BackingID = o.backingID
	return true
}

// PassthroughOpen opens n with a passthrough descriptor if that can be, and fills out.
func (f *Directory) PassthroughOpen(n *Inode, out *fuse.OpenOut) bool {
	o := &n.Opens
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.passthrough == 0 && (o.cached > 0 || f.NoPassthrough.Load()) {
		o.cached++
		return false
	}
	if o.passthrough == 0 {
		var id int32
		var refused error
		if err := f.WithFD(n, func(fd int) error {
			id, refused = openBacking(f.Device, fd)
			return nil
		}); err != nil {
			o.cached++
			return false
		}
		if refused != nil {
			// EPERM: not root. ELOOP, EOPNOTSUPP: what lies beneath cannot.
			if !f.NoPassthrough.Swap(true) {
				f.log.WithError(refused).Info("no passthrough descriptors here; reads and writes go through latchfs")
			}
			o.cached++
			return false
		}
		o.backingID = id
	}
	o.passthrough++
	out.OpenFlags |= fuse.FOPEN_PASSTHROUGH | fuse.FOPEN_NOFLUSH
	out.BackingID = o.backingID
	return true
}

// CachedOpen opens n through the page cache, unless it is open with passthrough already:
// then it has to be that. It says which.
func (f *Directory) CachedOpen(n *Inode, out *fuse.OpenOut) (passthrough bool) {
	o := &n.Opens
	o.mu.Lock()
	if o.passthrough == 0 {
		defer o.mu.Unlock()
		o.cached++
		return false
	}
	o.mu.Unlock()
	return f.PassthroughOpen(n, out)
}

// Closed takes the open of a handle back.
func (f *Directory) Closed(h *Handle) {
	o := &h.Node.Opens
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case h.Direct:
		o.direct--
	case !h.Passthrough:
		o.cached--
	}
	if !h.Passthrough {
		return
	}
	if o.passthrough--; o.passthrough == 0 {
		// It can only fail on a connection that is gone, and its ids with it.
		_ = closeBacking(f.Device, o.backingID)
		o.backingID = 0
	}
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
