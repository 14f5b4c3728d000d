//go:build linux

package fs

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
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
	// handle is that of name_to_handle_at(2), if fd is -1.
	handle *unix.FileHandle

	// row is what outlives the server. The number of lookups in it, how often the kernel was told
	// of the inode, and the place are guarded by inodes.mu.
	row atomic.Pointer[handover.InodeRow]

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
func (n *inode) lockNamed() bool { return n.row.Load().Flags.Load()&handover.FlagLockNamed != 0 }

// takenAway says that the store moved the file out of the directory since it was last looked up.
func (n *inode) takenAway() bool { return n.row.Load().Flags.Load()&handover.FlagTakenAway != 0 }

func (n *inode) setLockNamed(is bool) { n.setFlag(handover.FlagLockNamed, is) }
func (n *inode) setTakenAway(is bool) { n.setFlag(handover.FlagTakenAway, is) }

func (n *inode) setFlag(flag uint32, is bool) {
	row := n.row.Load()
	switch was := row.Flags.Load()&flag != 0; {
	case is && !was:
		row.Flags.Or(flag)
	case !is && was:
		row.Flags.And(^flag)
	}
}

// inodes is the table of what the kernel knows.
type inodes struct {
	tables *handover.Tables

	mu    sync.RWMutex
	byID  map[uint64]*inode
	byKey map[fileKey]*inode
	// descriptors is how many of them have one.
	descriptors int
}

func newInodes(t *handover.Tables) *inodes {
	return &inodes{tables: t, byID: make(map[uint64]*inode), byKey: make(map[fileKey]*inode)}
}

// addRoot puts the root into an empty table.
func (t *inodes) addRoot(root *inode) {
	root.id = fuse.FUSE_ROOT_ID
	t.write(root, fuse.FUSE_ROOT_ID, nil)
	t.byID[root.id], t.byKey[root.key] = root, root
}

// write writes n down, with one lookup and its file handle, if that is known.
func (t *inodes) write(n *inode, id uint64, handle *unix.FileHandle) {
	row := t.tables.Inodes.Take()
	row.Dev, row.Ino, row.Kind = n.key.dev, n.key.ino, n.kind
	if handle != nil {
		row.Handle = t.tables.AddText(uint64(handle.Type()), handle.Bytes())
	}
	t.tables.Set(&row.FD, n.fd)
	row.Lookups.Store(1)
	row.ID.Store(id)
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
	n.row.Load().Lookups.Add(1)
	t.tables.CountLookup(unique&^uniqueResent, n.id)
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

// add puts the inode of the file fd into the table, with the handle to be stored, counting a lookup for a
// request. Fd is closed if the inode is there already, or is to be opened by handle.
func (t *inodes) add(key fileKey, fd int, handle, stored *unix.FileHandle, kind uint32, unique uint64) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[key]; n != nil && n.is(key, fd, "") {
		unix.Close(fd)
		t.countLookup(n, unique)
		return n
	}
	if handle != nil {
		unix.Close(fd)
		fd = -1
	}
	n := &inode{id: t.tables.Head.NextNode.Add(1) - 1, key: key, fd: fd, handle: handle, kind: kind}
	if fd >= 0 {
		t.descriptors++
	}
	t.write(n, n.id, stored)
	t.tables.CountLookup(unique&^uniqueResent, n.id)
	t.byID[n.id], t.byKey[key] = n, n
	return n
}

// unfind takes the lookup of id back that was counted for a request.
func (t *inodes) unfind(id, unique uint64) {
	if id == 0 {
		return
	}
	t.tables.UncountLookup(unique&^uniqueResent, id)
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
	left := n.row.Load().Lookups.Load()
	left -= min(count, left)
	n.row.Load().Lookups.Store(left)
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
	// Who still has n goes on with a row that is nobody's.
	row, last := n.row.Load(), &handover.InodeRow{}
	last.Flags.Store(row.Flags.Load())
	n.row.Store(last)
	row.ID.Store(0)
	closeFD(n.fd)
	t.tables.DropText(row.Place.Load())
	t.tables.DropText(row.Handle)
	t.tables.Inodes.Give(row)
}

// pinned is how many of them have a descriptor.
func (t *inodes) pinned() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors
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
	before := n.row.Load().Place.Load()
	n.row.Load().Place.Store(t.tables.AddText(parent.id, []byte(name)))
	t.tables.DropText(before)
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
	for ; dir.parent != nil; dir = dir.parent {
		name = dir.name + "/" + name
	}
	return name
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
