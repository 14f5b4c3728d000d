//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/fs/channel"
)

// opens counts how an inode is open. The kernel refuses to mix opens through the page cache with passthrough opens,
// and wants one backing id for all of the latter. It forgets an open before it sends the RELEASE, so the counts here
// are never lower than the kernel's.
type opens struct {
	mu          sync.Mutex
	direct      int32 // without the page cache
	cached      int32
	passthrough int32 // some of the direct ones are passthrough too
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

// Any reports whether the inode is open.
func (o *opens) Any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.direct+o.cached+o.passthrough > 0
}

// DirectOpen opens n without the page cache. While n is open with passthrough, this open has to be a passthrough one
// too, and DirectOpen reports that. Its reads and writes still go through latchfs (fuse_file_read_iter).
func (d *Directory) DirectOpen(n *Inode, out *fuse.OpenOut) (passthrough bool) {
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

// PassthroughOpen opens n with a passthrough descriptor if possible, and fills out. It reports whether it was
// possible.
func (d *Directory) PassthroughOpen(n *Inode, out *fuse.OpenOut) bool {
	o := &n.Opens
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.passthrough == 0 && (o.cached > 0 || d.NoPassthrough.Load()) {
		o.cached++
		return false
	}
	if o.passthrough == 0 {
		var id int32
		var refused error
		if err := d.WithFD(n, func(fd int) error {
			id, refused = channel.OpenBacking(d.Device, fd)
			return nil
		}); err != nil {
			o.cached++
			return false
		}
		if refused != nil {
			// EPERM: latchfs is not root. ELOOP, EOPNOTSUPP: the filesystem beneath does not support it.
			if !d.NoPassthrough.Swap(true) {
				d.log.WithError(refused).Info("no passthrough descriptors here; reads and writes go through latchfs")
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

// CachedOpen opens n through the page cache. If n is open with passthrough already, this open has to be a passthrough
// one too, and CachedOpen reports that.
func (d *Directory) CachedOpen(n *Inode, out *fuse.OpenOut) (passthrough bool) {
	o := &n.Opens
	o.mu.Lock()
	if o.passthrough == 0 {
		defer o.mu.Unlock()
		o.cached++
		return false
	}
	o.mu.Unlock()
	return d.PassthroughOpen(n, out)
}

// Closed uncounts the open of a handle.
func (d *Directory) Closed(h *Handle) {
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
		// This can only fail if the connection is gone, and its ids with it.
		_ = channel.CloseBacking(d.Device, o.backingID)
		o.backingID = 0
	}
}
