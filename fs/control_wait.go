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

// wait answers a read of wait/NAME when it is the reader's turn.
func (c *control) wait(in *fuse.ReadIn, name string, reply func([]byte, error)) (cancel func()) {
	if err := c.fs.mayEnter(&in.InHeader, path.Dir(name)); err != nil {
		reply(nil, err)
		return func() {}
	}
	who := c.fs.caller(&in.InHeader)()
	waiter := c.fs.locks.Await(name, in.Fh, who, func(err error) {
		if err != nil {
			reply(nil, err)
		} else {
			reply(fmt.Appendf(nil, "%s is free, and reserved for %v for a second\n", name, who), nil)
		}
	})
	return waiter.Cancel
}
