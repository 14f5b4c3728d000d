//go:build linux

package backing

import "latchfs/fs/channel"

// UniqueResent is set in the number of a request that the kernel sends again (FUSE_UNIQUE_RESEND).
const UniqueResent = channel.UniqueResent

// Notify sends the kernel a notification (channel.Notify).
func (d *Directory) Notify(code uint32, body ...uint64) error {
	return channel.Notify(d.Device, code, body...)
}

// ForgetAttributes makes the kernel ask for the attributes of n again. The notification does not wait, since it concerns
// no pages.
func (d *Directory) ForgetAttributes(n *Inode) {
	if d.Device >= 0 { // else nothing is cached yet
		// It fails with ENOENT if the kernel has forgotten n.
		const noOffset = ^uint64(0)
		_ = d.Notify(channel.NotifyInvalInode, n.ID, noOffset, 0)
	}
}
