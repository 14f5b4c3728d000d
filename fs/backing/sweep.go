//go:build linux

package backing

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// A FORGET is not sent again when the server that read it has died. So a new server asks, once it has
// served for some time, whether the kernel still knows the inodes it took over.

// SweepDelay is longer than any answer of the dead server is on its way in the kernel.
const SweepDelay = 10 * time.Second

// foundInode is an inode that a server took over, and how often the kernel had looked it up.
type foundInode struct{ id, lookups uint64 }

// Sweep forgets those of them that the kernel has forgotten.
func (f *Directory) Sweep(found []foundInode, stopped func() bool) {
	forgotten := 0
	for _, was := range found {
		if stopped() {
			return
		}
		if n := f.Inodes.Get(was.id); n == nil || n.Opens.Any() || f.known(was.id) {
			continue
		}
		// One that was looked up meanwhile stays.
		f.Inodes.Forget(was.id, was.lookups)
		forgotten++
	}
	if forgotten > 0 {
		f.log.WithField("inodes", forgotten).Debug("forgot what the kernel had forgotten")
	}
}

// known asks the kernel whether it knows an inode: it is told of content of no bytes, which changes
// nothing and waits for nothing.
func (f *Directory) known(id uint64) bool {
	return id == fuse.FUSE_ROOT_ID || f.Notify(notifyStore, id, 0, 0) != unix.ENOENT
}
