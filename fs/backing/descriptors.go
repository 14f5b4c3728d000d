//go:build linux

package backing

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// If the limit of descriptors (RLIMIT_NOFILE) is low, as in a container without CAP_SYS_RESOURCE, the kernel has more
// files open and knows more inodes than the process may have descriptors. The limit is divided, so that no user can
// take all of it. Beyond a share the answer is ENFILE:
//
//   - Files that are not open keep at most an eighth of the limit. Beyond it they are opened by handle where possible
//     (inode_fd.go). Inodes that need a descriptor, such as all directories, have at most five eighths. Before they
//     reach it, the kernel is asked to forget some.
//   - An open file takes one descriptor. A user may open openShare times as many as are left for all.
//   - The last eighth is reserved for files at lock names, for removals and for .latchfs.

const (
	// handledShare, pinnedShare and reservedShare are in eighths of the limit.
	handledShare, pinnedShare, reservedShare = 1, 5, 1
	// openShare is how many descriptors a user may have for each one that is left.
	openShare = 4
	// ownDescriptors is how many the server itself needs.
	ownDescriptors = 64
)

// descriptors counts the files that are open on behalf of users.
type descriptors struct {
	Limit int // of all descriptors, those of inodes included; 0 if it is unknown

	mu      sync.Mutex
	open    int
	byUser  map[uint32]int
	refused uint64
}

// share returns a number of eighths of the limit.
func (d *descriptors) share(eighths int) int { return d.Limit / 8 * eighths }

// take counts a file that a user opens, at a lock name or not. inodes is how many descriptors inodes have. It returns
// ENFILE if the file is beyond a share.
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

// took counts a file that another server opened.
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

// Give uncounts a file.
func (d *descriptors) Give(uid uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
	if d.byUser[uid]--; d.byUser[uid] == 0 {
		delete(d.byUser, uid)
	}
}

// OpenFiles returns how many files and directories are open in the mount.
func (d *Directory) OpenFiles() int {
	d.Descriptors.mu.Lock()
	defer d.Descriptors.mu.Unlock()
	return d.Descriptors.open
}

// MayOpen counts a file that the caller of in opens, at a lock name or not. It returns ENFILE if the file is beyond a
// share.
func (d *Directory) MayOpen(in *fuse.InHeader, lockNamed bool) error {
	return d.Descriptors.take(in.Uid, lockNamed, d.Inodes.pinned())
}

// OpenRefusals returns how often a user was refused an open file (ENFILE).
func (d *Directory) OpenRefusals() uint64 {
	d.Descriptors.mu.Lock()
	defer d.Descriptors.mu.Unlock()
	return d.Descriptors.refused
}
