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
	fd   int    // O_PATH; -1 if it is opened by handle whenever it is needed
	kind uint32 // S_IFMT part of the mode
	// handle is that of name_to_handle_at(2), if fd is -1.
	handle *unix.FileHandle

	lookups uint64 // how often the kernel was told of it; guarded by inodes.mu

	// Where it was last seen; guarded by inodes.mu. Of a directory that is where it is;
	// of any other file it is only kept if the name is a lock name, or parent's is.
	parent *inode
	name   string
	// lockNamed says that name is a lock name.
	lockNamed atomic.Bool

	// takenAway says that the store moved the file out of the directory since it was last
	// looked up.
	takenAway atomic.Bool

	// seen is what lockstore remembers of the file.
	seen lockstore.Sighting

	noACL aclAbsence

	opens opens
}

func (n *inode) isDir() bool { return n.kind == unix.S_IFDIR }

// inodes is the table of what the kernel knows.
type inodes struct {
	mu    sync.RWMutex
	byID  map[uint64]*inode
	byKey map[fileKey]*inode
	next  uint64
	// descriptors is how many of them have one.
	descriptors int
}

func newInodes(root *inode) *inodes {
	root.id, root.lookups = fuse.FUSE_ROOT_ID, 1
	return &inodes{
		byID:  map[uint64]*inode{root.id: root},
		byKey: map[fileKey]*inode{root.key: root},
		next:  firstNodeID,
	}
}

// get returns the inode of a node id that the kernel has not forgotten.
func (t *inodes) get(id uint64) *inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// find returns the inode of a key, counting a lookup, or nil.
func (t *inodes) find(key fileKey) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byKey[key]
	if n != nil {
		n.lookups++
	}
	return n
}

// peek returns the inode of a key without counting a lookup, nil if the kernel does not know
// it.
func (t *inodes) peek(key fileKey) *inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byKey[key]
}

// add puts an inode with the descriptor fd, or a handle, into the table, counting a lookup.
// If it is there already fd is closed.
func (t *inodes) add(key fileKey, fd int, handle *unix.FileHandle, kind uint32) *inode {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[key]; n != nil {
		closeFD(fd)
		n.lookups++
		return n
	}
	n := &inode{id: t.next, key: key, fd: fd, handle: handle, kind: kind, lookups: 1}
	if fd >= 0 {
		t.descriptors++
	}
	t.next++
	t.byID[n.id], t.byKey[key] = n, n
	return n
}

// forget takes back count lookups.
func (t *inodes) forget(id, count uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.byID[id]
	if n == nil || id == fuse.FUSE_ROOT_ID {
		return
	}
	if n.lookups -= min(count, n.lookups); n.lookups == 0 {
		t.remove(n)
	}
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
	closeFD(n.fd)
}

// replaced tells that another file has the number of n, which has none to keep it.
func (t *inodes) replaced(n *inode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byKey[n.key] == n {
		delete(t.byKey, n.key)
	}
	n.lookups--
}

// crowded says that no more descriptors than limit are to be kept.
func (t *inodes) crowded(limit int) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors >= limit
}

// place remembers that n is the entry name of parent, which is a lock name or not.
func (t *inodes) place(n, parent *inode, name string, lockNamed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n.parent, n.name = parent, name
	n.lockNamed.Store(lockNamed)
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
