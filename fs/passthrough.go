//go:build linux

package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/fs/channel"
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
func (o *opens) took(h *handle, backing int32) {
	switch {
	case h.direct:
		o.direct++
	case !h.passthrough:
		o.cached++
	}
	if h.passthrough {
		o.passthrough++
		o.backingID = backing
	}
}

// any says whether there are any.
func (o *opens) any() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.direct+o.cached+o.passthrough > 0
}

// directOpen opens n without the page cache. While n is open with passthrough this open has to be that
// too, and says so; its reads and writes come by here all the same (fuse_file_read_iter).
func (f *Directory) directOpen(n *inode, out *fuse.OpenOut) (passthrough bool) {
	o := &n.opens
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

// passthroughOpen opens n with a passthrough descriptor if that can be, and fills out.
func (f *Directory) passthroughOpen(n *inode, out *fuse.OpenOut) bool {
	o := &n.opens
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.passthrough == 0 && (o.cached > 0 || f.noPassthrough.Load()) {
		o.cached++
		return false
	}
	if o.passthrough == 0 {
		var id int32
		var refused error
		if err := f.withFD(n, func(fd int) error {
			id, refused = channel.OpenBacking(f.device, fd)
			return nil
		}); err != nil {
			o.cached++
			return false
		}
		if refused != nil {
			// EPERM: not root. ELOOP, EOPNOTSUPP: what lies beneath cannot.
			if !f.noPassthrough.Swap(true) {
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

// cachedOpen opens n through the page cache, unless it is open with passthrough already:
// then it has to be that. It says which.
func (f *Directory) cachedOpen(n *inode, out *fuse.OpenOut) (passthrough bool) {
	o := &n.opens
	o.mu.Lock()
	if o.passthrough == 0 {
		defer o.mu.Unlock()
		o.cached++
		return false
	}
	o.mu.Unlock()
	return f.passthroughOpen(n, out)
}

// closed takes the open of a handle back.
func (f *Directory) closed(h *handle) {
	o := &h.node.opens
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case h.direct:
		o.direct--
	case !h.passthrough:
		o.cached--
	}
	if !h.passthrough {
		return
	}
	if o.passthrough--; o.passthrough == 0 {
		// It can only fail on a connection that is gone, and its ids with it.
		_ = channel.CloseBacking(f.device, o.backingID)
		o.backingID = 0
	}
}
