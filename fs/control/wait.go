//go:build linux

package control

import (
	"fmt"
	"path"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// waits returns the lock name that the readers of a node of wait wait for, "" for any other node.
func (d *Dir) waits(id uint64) string {
	if n := d.nodes.get(id); n != nil && n.tree == waitID {
		return n.path
	}
	return ""
}

// wait lets the caller of a request wait for a name, in the order of file handles, and calls reply when it is the
// caller's turn.
func (d *Dir) wait(in *fuse.InHeader, fh uint64, name string, reply func([]byte, error)) (cancel func()) {
	if err := d.host.Access.MayEnter(in, path.Dir(name)); err != nil {
		reply(nil, err)
		return func() {}
	}
	waiting := &d.limits[limitWaiting]
	if err := waiting.take(in.Uid, d.host.MaxWaitingPerUser); err != nil {
		reply(nil, err)
		return func() {}
	}
	uid := in.Uid // the request's buffer is reused before the reply
	caller := d.host.Caller(in)
	waiter := d.host.Locks.Await(name, fh, uid, caller, func(err error) {
		waiting.give(uid)
		if err != nil {
			reply(nil, err)
		} else {
			reply(fmt.Appendf(nil, "%s is free, and reserved for %v for a second\n", name, caller), nil)
		}
	})
	return waiter.Cancel
}
