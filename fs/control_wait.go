//go:build linux

package fs

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
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

// mayEnter says whether who made a request may make files in a directory: EACCES if not, or
// what its path says. The kernel checked for the file that stands for it only. Where there are ACLs, they
// are not asked: who has no right gets no lock, but could have others wait for a second.
func (f *FS) mayEnter(in *fuse.InHeader, dir string) error {
	if in.Uid == 0 {
		return nil
	}
	groups, err := f.callers.Groups(int(in.Pid))
	if err != nil {
		groups = nil // out of sight
	}
	need := uint32(unix.W_OK | unix.X_OK)
	for {
		fd, err := openBeneath(f.root.fd, dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		st, err := statFD(fd)
		if err == nil {
			_, aclErr := unix.Getxattr(procPath(fd), aclAccess, nil)
			if errors.Is(aclErr, unix.ENODATA) || errors.Is(aclErr, unix.EOPNOTSUPP) {
				err = permits(&st, in.Uid, append(groups, in.Gid), need)
			}
		}
		unix.Close(fd)
		if err != nil || dir == "." {
			return err
		}
		dir, need = path.Dir(dir), unix.X_OK
	}
}

// permits returns EACCES if the mode of a file does not allow what is needed.
func permits(st *unix.Stat_t, uid uint32, groups []uint32, need uint32) error {
	mode := st.Mode
	switch {
	case st.Uid == uid:
		mode >>= 6
	case slices.Contains(groups, st.Gid):
		mode >>= 3
	}
	if mode&need != need {
		return unix.EACCES
	}
	return nil
}
