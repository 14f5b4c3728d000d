//go:build linux

package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel has many more files open, and knows more inodes, than a process may have descriptors where its limit
// (RLIMIT_NOFILE) is low: in a container without CAP_SYS_RESOURCE, for example. The limit is shared out, so that one
// user cannot leave the others without. ENFILE is the answer beyond a share:
//
//   - Files and directories that nobody has open keep at most an eighth of the limit, where they can be opened by handle;
//     beyond it they are (inode_fd.go). Where they cannot they have at most five eighths, and at least two. Before that is
//     reached the kernel is asked to forget some.
//   - An open file has one, unless the kernel passes its reads and writes through and it can be opened by handle. A user
//     may have openShare times as many as are left for everybody.
//   - The last eighth is only for files at lock names, for removals and for .latchfs.

const (
	// handledShare, leastPinnedShare, pinnedShare and reservedShare are in eighths of the limit.
	handledShare, leastPinnedShare, pinnedShare, reservedShare = 1, 2, 5, 1
	// openShare is how many descriptors a user may have for each that is left.
	openShare = 4
	// ownDescriptors are for the server itself.
	ownDescriptors = 64
)

// descriptors counts what is open on behalf of users.
type descriptors struct {
	limit int // of all, inodes among them; 0 if it is not known

	mu      sync.Mutex
	open    int
	byUser  map[uint32]int
	refused uint64
}

// share is a number of eighths of the limit.
func (d *descriptors) share(eighths int) int { return d.limit / 8 * eighths }

// admit returns ENFILE if a user may not open another file, which has a lock name or not, while inodes have so many descriptors.
func (d *descriptors) admit(uid uint32, lockNamed bool, inodes int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.limit - max(inodes, d.share(leastPinnedShare)) - d.open
	if !lockNamed {
		left -= d.share(reservedShare)
	}
	if d.limit > 0 && d.byUser[uid] >= openShare*left {
		d.refused++
		return unix.ENFILE
	}
	return nil
}

// pins is how many inodes may have a descriptor.
func (d *descriptors) pins() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return max(d.share(leastPinnedShare), min(d.share(pinnedShare), d.limit-d.open-d.share(reservedShare)))
}

// took counts a descriptor that is open for a user.
func (d *descriptors) took(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byUser == nil {
		d.byUser = make(map[uint32]int)
	}
	d.byUser[uid]++
	d.open++
}

// gave takes one back.
func (d *descriptors) gave(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.byUser[uid]--; d.byUser[uid] == 0 {
		delete(d.byUser, uid)
	}
}

// mayOpen returns ENFILE if the caller of in may not open another file, which has a lock name or not.
func (f *FS) mayOpen(in *fuse.InHeader, lockNamed bool) error {
	err := f.descriptors.admit(in.Uid, lockNamed, f.inodes.pinned())
	if err != nil {
		f.prune() // there may be more next time
	}
	return err
}

// OpenFiles is how many open files and directories of the mount have a descriptor here.
func (f *FS) OpenFiles() int {
	f.descriptors.mu.Lock()
	defer f.descriptors.mu.Unlock()
	return f.descriptors.open
}

// OpenRefusals is how often a user was refused an open file (ENFILE).
func (f *FS) OpenRefusals() uint64 {
	f.descriptors.mu.Lock()
	defer f.descriptors.mu.Unlock()
	return f.descriptors.refused
}
