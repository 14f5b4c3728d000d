//go:build linux

package backing

import (
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
)

// The kernel does not send a FORGET again if the server that read it has died. So a new server asks the kernel, after
// it has served for some time, whether it still knows the inodes that were taken over.

// SweepDelay is longer than any answer of the dead server can be in transit in the kernel.
const SweepDelay = 10 * time.Second

// foundInode is an inode that a server took over, and how often the kernel had looked it up by then.
type foundInode struct{ id, lookups uint64 }

// Sweep forgets the inodes that were taken over and that the kernel has forgotten.
func (d *Directory) Sweep(stopped func() bool) {
	forgotten := 0
	for _, was := range d.found {
		if stopped() {
			return
		}
		if n := d.Inodes.Get(was.id); n == nil || n.Opens.Any() || d.known(was.id) {
			continue
		}
		// An inode that was looked up in the meantime stays.
		d.Inodes.Forget(was.id, was.lookups)
		forgotten++
	}
	d.found = nil
	if forgotten > 0 {
		d.log.WithField("inodes", forgotten).Debug("forgot what the kernel had forgotten")
	}
}

// known asks the kernel whether it knows an inode, with a store of zero bytes, which changes nothing and waits for
// nothing.
func (d *Directory) known(id uint64) bool {
	return id == fuse.FUSE_ROOT_ID || d.Notify(channel.NotifyStore, id, 0, 0) != unix.ENOENT
}
