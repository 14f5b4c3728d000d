//go:build linux

package fs

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A FORGET is not sent again when the server that read it has died. So a new server asks, once it has
// served for some time, whether the kernel still knows the inodes it took over.

// sweepDelay is longer than any answer of the dead server is on its way in the kernel.
const sweepDelay = 10 * time.Second

// inherited are how often the kernel looked up each inode that there is.
func (t *inodes) inherited() map[uint64]uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	lookups := make(map[uint64]uint64, len(t.byID))
	for id, n := range t.byID {
		lookups[id] = n.row.Load().lookups.Load()
	}
	return lookups
}

// sweep forgets those of them that the kernel has forgotten.
func (f *FS) sweep(lookups map[uint64]uint64, stopped func() bool) {
	forgotten := 0
	for id, count := range lookups {
		if stopped() {
			return
		}
		if n := f.inodes.get(id); n == nil || n.opens.any() || f.known(id) {
			continue
		}
		// One that was looked up meanwhile stays.
		f.inodes.forget(id, count)
		forgotten++
	}
	if forgotten > 0 {
		f.log.WithField("inodes", forgotten).Debug("forgot what the kernel had forgotten")
	}
}

// known asks the kernel whether it knows an inode: it is told of content of no bytes, which changes
// nothing and waits for nothing.
func (f *FS) known(id uint64) bool {
	return id == fuse.FUSE_ROOT_ID || f.notify(notifyStore, id, 0, 0) != unix.ENOENT
}
