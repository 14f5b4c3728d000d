//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The kernel has many more files open, and knows more inodes, than a process may have descriptors where its limit
// (RLIMIT_NOFILE) is low: in a container without CAP_SYS_RESOURCE, for example. The limit is shared out, so that one
// user cannot leave the others without. ENFILE is the answer beyond a share:
//
//   - Files that nobody has open keep at most an eighth of the limit, where files can be opened by handle; beyond it
//     they are (inode_fd.go). Inodes that can only be had by a descriptor (all directories are among them) have at
//     most five eighths. Before that is reached the kernel is asked to forget some.
//   - An open file takes one. A user may open openShare times as many as are left for everybody.
//   - The last eighth is only for files at lock names, for removals and for .latchfs.

const (
	// handledShare, pinnedShare and reservedShare are in eighths of the limit.
	handledShare, pinnedShare, reservedShare = 1, 5, 1
	// openShare is how many descriptors a user may have for each that is left.
	openShare = 4
	// ownDescriptors are for the server itself.
	ownDescriptors = 64
)

// descriptors counts what is open on behalf of users.
type descriptors struct {
	Limit int // of all, inodes among them; 0 if it is not known

	mu      sync.Mutex
	open    int
	byUser  map[uint32]int
	refused uint64
}

// share is a number of eighths of the limit.
func (d *descriptors) share(eighths int) int { return d.Limit / 8 * eighths }

// take counts a file that a user opens, which has a lock name or not, while inodes have so many descriptors. It returns
// ENFILE if that is beyond a share.
func (d *descriptors) take(uid uint32, lockNamed bool, inodes int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := d.Limit - inodes - d.open
	if !lockNamed {
		left -= d.share(reservedShare)
	}
	if d.Limit > 0 && d.byUser[uid] >= openShare*left {
		d.refused++
		return unix.ENFILE
	}
	d.count(uid)
	return nil
}

// took counts a file that is open already: another server opened it.
func (d *descriptors) took(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count(uid)
}

func (d *descriptors) count(uid uint32) {
	if d.byUser == nil {
		d.byUser = make(map[uint32]int)
	}
	d.byUser[uid]++
	d.open++
}

// Give takes one back.
func (d *descriptors) Give(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.byUser[uid]--; d.byUser[uid] == 0 {
		delete(d.byUser, uid)
	}
}

// OpenFiles is how many files and directories are open in the mount.
func (f *Directory) OpenFiles() int {
	f.Descriptors.mu.Lock()
	defer f.Descriptors.mu.Unlock()
	return f.Descriptors.open
}

// MayOpen counts a file that the caller of in opens, which has a lock name or not. It returns ENFILE if that is beyond
// a share.
func (f *Directory) MayOpen(in *fuse.InHeader, lockNamed bool) error {
	return f.Descriptors.take(in.Uid, lockNamed, f.Inodes.pinned())
}

// OpenRefusals is how often a user was refused an open file (ENFILE).
func (f *Directory) OpenRefusals() uint64 {
	f.Descriptors.mu.Lock()
	defer f.Descriptors.mu.Unlock()
	return f.Descriptors.refused
}
