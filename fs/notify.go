//go:build linux

package fs

import "latchfs/fs/channel"

// uniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const uniqueResent = channel.UniqueResent

// notify sends the kernel a notification (channel.Notify).
func (d *Directory) notify(code uint32, body ...uint64) error {
	return channel.Notify(d.device, code, body...)
}

// forgetAttributes makes the kernel ask for the attributes of n again. The notification does not wait, since it concerns
// no pages.
func (d *Directory) forgetAttributes(n *inode) {
	if d.device >= 0 { // else nothing is cached yet
		// It fails with ENOENT if the kernel has forgotten n.
		const noOffset = ^uint64(0)
		_ = d.notify(channel.NotifyInvalInode, n.id, noOffset, 0)
	}
}
