//go:build linux

package fs

import (
	"fmt"
	"path"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// waits is the lock name that the readers of a node wait for; "" if it is none of that.
func (c *control) waits(id uint64) string {
	if n := c.nodes.get(id); n != nil && n.tree == controlWait {
		return n.path
	}
	return ""
}

// wait answers a read of wait/NAME, or one that is to come, when it is the caller's turn.
func (c *control) wait(in *fuse.InHeader, fh uint64, name string, reply func([]byte, error)) (cancel func()) {
	if err := c.fs.mayEnter(in, path.Dir(name)); err != nil {
		reply(nil, err)
		return func() {}
	}
	waiting := &c.limits[limitWaiting]
	if err := waiting.take(in.Uid, c.most); err != nil {
		reply(nil, err)
		return func() {}
	}
	uid := in.Uid // the request is not there any more when it is answered
	who := c.fs.caller(in)()
	waiter := c.fs.locks.Await(name, fh, uid, who, func(err error) {
		waiting.give(uid)
		if err != nil {
			reply(nil, err)
		} else {
			reply(fmt.Appendf(nil, "%s is free, and reserved for %v for a second\n", name, who), nil)
		}
	})
	return waiter.Cancel
}
