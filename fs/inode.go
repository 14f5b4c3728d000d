//go:build linux

package fs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// fileKey is what makes an inode one on this machine.
type fileKey struct{ dev, ino uint64 }

func keyOf(st *unix.Stat_t) fileKey { return fileKey{st.Dev, st.Ino} }

func keyOfFile(file lockstore.File) fileKey { return fileKey{file.ID.Device, file.ID.Inode} }

// inode is a file or directory the kernel knows. Hard links share one. While it is in
// the table its descriptor keeps the inode number beneath from being used again; one without
// is told from a later file of that number by its handle (inode_fd.go).
type inode struct {
	id   uint64 // node id
	key  fileKey
	fd   int    // O_PATH, or that of who made the lock it is; -1 if it is opened by handle whenever it is needed
	kind uint32 // S_IFMT part of the mode
	// user looked it up first, if counted: it is among inodes.pinnedBy.
	user    uint32
	counted bool
	// handle is that of name_to_handle_at(2), if fd is -1.
	handle *unix.FileHandle
	held   held

	// row is what outlives the server. The number of lookups in it, how often the kernel was told
	// of the inode, and the place are guarded by inodes.mu.
	row atomic.Pointer[inodeRow]

	// Where it was last seen; guarded by inodes.mu. Of a directory that is where it is;
	// of any other file it is only kept if the name is a lock name, or parent's is.
	parent *inode
	name   string

	// seen is what lockstore remembers of the file.
	seen lockstore.CachedJudgment

	noACL aclAbsence

	opens opens
}

func (n *inode) isDir() bool { return n.kind == unix.S_IFDIR }

// lockNamed says that the place of n is a lock name.
func (n *inode) lockNamed() bool { return n.row.Load().flags.Load()&flagLockNamed != 0 }

// takenAway says that the store moved the file out of the directory since it was last looked up.
func (n *inode) takenAway() bool { return n.row.Load().flags.Load()&flagTakenAway != 0 }

func (n *inode) setLockNamed(is bool) { n.setFlag(flagLockNamed, is) }
func (n *inode) setTakenAway(is bool) { n.setFlag(flagTakenAway, is) }

func (n *inode) setFlag(flag uint32, is bool) {
	row := n.row.Load()
	switch was := row.flags.Load()&flag != 0; {
	case is && !was:
		row.flags.Or(flag)
	case !is && was:
		row.flags.And(^flag)
	}
}

// inodes is the table of what the kernel knows.
type inodes struct {
	tables *tables

	mu    sync.RWMutex
	byID  map[uint64]*inode
	byKey map[fileKey]*inode
	// descriptors is how many of them have one, pinnedBy those that were looked up first by a user since the server began.
	descriptors int
	pinnedBy    map[uint32]int
}

func newInodes(t *tables) *inodes {
	return &inodes{tables: t, byID: make(map[uint64]*inode), byKey: make(map[fileKey]*inode), pinnedBy: make(map[uint32]int)}
}

// addRoot puts the root into an empty table.
func (t *inodes) addRoot(root *inode) {
	root.id = fuse.FUSE_ROOT_ID
	t.write(root, fuse.FUSE_ROOT_ID, nil)
	t.byID[root.id], t.byKey[root.key] = root, root
}

// write writes n down, with one lookup and its file handle, if that is known.
func (t *inodes) write(n *inode, id uint64, handle *unix.FileHandle) {
	row := t.tables.inodes.take()
	row.dev, row.ino, row.kind = n.key.dev, n.key.ino, n.kind
	if handle != nil {
		row.handle = t.tables.addText(uint64(handle.Type()), handle.Bytes())
	}
	t.tables.set(&row.fd, n.fd)
	row.lookups.Store(1)
	row.id.Store(id)
	n.row.Store(row)
}

// get returns the inode of a node id that the kernel has not forgotten.
func (t *inodes) get(id uint64) *inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// countLookup counts a lookup of n for a request; mu is held.
func (t *inodes) countLookup(n *inode, unique uint64) {
	n.row.Load().lookups.Add(1)
	t.tables.counted(unique, n.id)
}

// again counts a lookup of n for a request, if the kernel still knows it.
func (t *inodes) again(n *inode, unique uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[n.id] != n {
		return false
	}
	t.countLookup(n, unique)
	return true
}

// peek returns the inode of the file with that key at the entry name of the directory dirfd, or of
// dirfd itself if name is empty, without counting a lookup. It returns nil if the kernel does not
// know the file.
func (t *inodes) peek(key fileKey, dirfd int, name string) *inode {
	t.mu.RLock()
	n := t.byKey[key]
	t.mu.RUnlock()
	if n == nil || !n.is(key, dirfd, name) {
		return nil
	}
	return n
}

// add puts the inode of the file fd into the table, with the handle to be stored, and counts a lookup for a request. If the
// inode is there already, fd is closed and added is false. If the inode is to be opened by handle, fd is kept (held).
func (t *inodes) add(key fileKey, fd int, handle, stored *unix.FileHandle, kind uint32, in *fuse.InHeader) (n *inode, added bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[key]; n != nil && n.is(key, fd, "") {
		unix.Close(fd)
		t.countLookup(n, in.Unique)
		return n, false
	}
	kept := fd
	if handle != nil {
		fd = -1
	}
	n = &inode{id: t.tables.head.nextNode.Add(1) - 1, key: key, fd: fd, handle: handle, kind: kind, user: in.Uid, counted: fd >= 0}
	if handle != nil {
		n.held.kept = 1
		n.held.fd.Store(int32(kept) + 1)
	} else {
		t.descriptors++
		t.pinnedBy[n.user]++
	}
	t.write(n, n.id, stored)
	t.tables.counted(in.Unique, n.id)
	t.byID[n.id], t.byKey[key] = n, n
	return n, true
}

// unfind takes the lookup of id back that was counted for a request.
func (t *inodes) unfind(id, unique uint64) {
	if id == 0 {
		return
	}
	t.tables.uncount(unique, id)
	t.forget(id, 1)
}

// forget takes back count lookups.
func (t *inodes) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil || id == fuse.FUSE_ROOT_ID {
		return
	}
	if t.take(n, count) == 0 {
		t.remove(n)
	}
}

// take takes count lookups from n and returns how many are left; mu is held.
func (t *inodes) take(n *inode, count uint64) uint64 {
	left := n.row.Load().lookups.Load()
	left -= min(count, left)
	n.row.Load().lookups.Store(left)
	return left
}

// remove takes n out; mu is held.
func (t *inodes) remove(n *inode) {
	delete(t.byID, n.id)
	if t.byKey[n.key] == n {
		delete(t.byKey, n.key)
	}
	if n.fd >= 0 {
		t.descriptors--
	}
	if n.counted {
		if t.pinnedBy[n.user]--; t.pinnedBy[n.user] == 0 {
			delete(t.pinnedBy, n.user)
		}
	}
	// Who still has n goes on with a row that is nobody's.
	row, last := n.row.Load(), &inodeRow{}
	last.flags.Store(row.flags.Load())
	n.row.Store(last)
	row.id.Store(0)
	closeFD(n.fd)
	n.held.end()
	t.tables.dropText(row.place.Load())
	t.tables.dropText(row.handle)
	t.tables.inodes.give(row)
}

// pinned is how many of them have a descriptor.
func (t *inodes) pinned() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors
}

// pinnedFor is how many of them have a descriptor, and of these how many count for a user.
func (t *inodes) pinnedFor(uid uint32) (all, theirs int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors, t.pinnedBy[uid]
}

// unused are the node ids of at most that many inodes that are not open. Directories come last: the kernel cannot forget
// one before what is in it.
func (t *inodes) unused(most int) (ids []uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var dirs []uint64
	for id, n := range t.byID {
		switch {
		case len(ids)+len(dirs) == most:
			return append(ids, dirs...)
		case n.isDir() && id != fuse.FUSE_ROOT_ID:
			dirs = append(dirs, id)
		case !n.isDir() && !n.opens.any():
			ids = append(ids, id)
		}
	}
	return append(ids, dirs...)
}

// place remembers that n is the entry name of parent, which is a lock name or not.
func (t *inodes) place(n, parent *inode, name string, lockNamed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.parent == parent && n.name == name && n.lockNamed() == lockNamed {
		return
	}
	before := n.row.Load().place.Load()
	n.row.Load().place.Store(t.tables.addText(parent.id, []byte(name)))
	t.tables.dropText(before)
	n.parent, n.name = parent, name
	n.setLockNamed(lockNamed)
}

// parentOf is the directory n was last seen in, nil if it has no place.
func (t *inodes) parentOf(n *inode) *inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.parent
}

// path is the name of the entry name of dir relative to the root.
func (t *inodes) path(dir *inode, name string) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return pathLocked(dir, name)
}

func pathLocked(dir *inode, name string) string {
	if dir.parent == nil {
		return name
	}
	size := len(name)
	for d := dir; d.parent != nil; d = d.parent {
		size += len(d.name) + 1
	}
	path := make([]byte, size)
	at := size - copy(path[size-len(name):], name)
	for d := dir; d.parent != nil; d = d.parent {
		at--
		path[at] = '/'
		at -= copy(path[at-len(d.name):], d.name)
	}
	return string(path)
}

// placePath is the path n was last seen at; false if it has no place.
func (t *inodes) placePath(n *inode) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n.parent == nil {
		return "", false
	}
	return pathLocked(n.parent, n.name), true
}

// size is how many inodes the kernel knows.
func (t *inodes) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// close closes every descriptor.
func (t *inodes) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.byID {
		t.remove(n)
	}
}
