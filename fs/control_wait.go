//go:build linux

package fs

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// waits is the lock name that the readers of a node wait for; "" if it is none of that.
func (c *control) waits(id uint64) string {
	if n := c.nodes.get(id); n != nil && n.tree == controlWait {
		return n.path
	}
	return ""
}

// blocks says that a read of a node may wait for other processes.
func (c *control) blocks(id uint64) bool { return c.waits(id) != "" }

// wait answers a read of wait/NAME when it is the reader's turn. With O_NONBLOCK it is EAGAIN when it is not his turn yet.
func (c *control) wait(cancel <-chan struct{}, in *fuse.ReadIn, name string) ([]byte, error) {
	if err := c.fs.mayEnter(&in.InHeader, path.Dir(name)); err != nil {
		return nil, err
	}
	who := c.fs.caller(&in.InHeader)()
	never := in.Flags&unix.O_NONBLOCK != 0
	if never {
		over := make(chan struct{})
		close(over)
		cancel = over
	}
	err := c.fs.locks.Wait(cancel, name, in.Fh, who)
	switch {
	case never && errors.Is(err, lockstore.ErrInterrupted):
		return nil, unix.EAGAIN
	case err != nil:
		return nil, err
	}
	return fmt.Appendf(nil, "%s is free, and reserved for %v for a second\n", name, who), nil
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
