//go:build linux

package backing

import (
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// FileKey identifies the inode of a file on this machine.
type FileKey struct{ dev, Ino uint64 }

func KeyOf(st *unix.Stat_t) FileKey { return FileKey{st.Dev, st.Ino} }

func KeyOfFile(file lockstore.File) FileKey { return FileKey{file.ID.Device, file.ID.Inode} }

// Inode is a file or directory that the kernel knows. Hard links share one. While an inode with a descriptor is in
// the table, its inode number beneath is not used again. One without a descriptor is distinguished from a later file
// with that number by its handle (inode_fd.go).
type Inode struct {
	ID   uint64 // node id
	Key  FileKey
	FD   int    // O_PATH, or the descriptor with which the lock was made; -1 if the file is opened by handle when needed
	Kind uint32 // S_IFMT part of the mode
	// handle is the one of name_to_handle_at(2), if FD is -1.
	handle *unix.FileHandle
	held   held
	// user looked the inode up first, if counted: it is among inodes.pinnedBy.
	user    uint32
	counted bool

	// Row outlives the server. inodes.mu guards its place and its number of lookups, which is how often the kernel
	// was told of the inode.
	Row atomic.Pointer[handover.InodeRow]

	// parent and name are where the file was last seen. inodes.mu guards them. For a directory they are always set,
	// for other files only if the name or parent's name is a lock name.
	parent *Inode
	name   string

	// Seen is the judgment that the store remembers of the file.
	Seen lockstore.CachedJudgment

	NoACL aclAbsence

	Opens opens
}

func (n *Inode) IsDir() bool { return n.Kind == unix.S_IFDIR }

// LockNamed reports whether the place of n is a lock name.
func (n *Inode) LockNamed() bool { return n.Row.Load().Flags.Load()&handover.FlagLockNamed != 0 }

// TakenAway reports whether the store has moved the file out of the directory since the last lookup.
func (n *Inode) TakenAway() bool { return n.Row.Load().Flags.Load()&handover.FlagTakenAway != 0 }

func (n *Inode) setLockNamed(is bool) { n.setFlag(handover.FlagLockNamed, is) }
func (n *Inode) SetTakenAway(is bool) { n.setFlag(handover.FlagTakenAway, is) }

func (n *Inode) setFlag(flag uint32, is bool) {
	row := n.Row.Load()
	switch was := row.Flags.Load()&flag != 0; {
	case is && !was:
		row.Flags.Or(flag)
	case !is && was:
		row.Flags.And(^flag)
	}
}

// inodes is the table of the inodes that the kernel knows.
type inodes struct {
	tables *handover.Tables

	mu    sync.RWMutex
	byID  map[uint64]*Inode
	byKey map[FileKey]*Inode
	// descriptors is how many of the inodes have a descriptor, pinnedBy how many of these a user looked up first, since
	// this server began.
	descriptors int
	pinnedBy    map[uint32]int
}

func newInodes(t *handover.Tables) *inodes {
	return &inodes{tables: t, byID: make(map[uint64]*Inode), byKey: make(map[FileKey]*Inode), pinnedBy: make(map[uint32]int)}
}

// addRoot puts the root into an empty table.
func (t *inodes) addRoot(root *Inode) {
	root.ID = fuse.FUSE_ROOT_ID
	t.write(root, fuse.FUSE_ROOT_ID, nil)
	t.byID[root.ID], t.byKey[root.Key] = root, root
}

// write records n in a row, with one lookup and its file handle, if that is known.
func (t *inodes) write(n *Inode, id uint64, handle *unix.FileHandle) {
	row := t.tables.Inodes.Take()
	row.Dev, row.Ino, row.Kind = n.Key.dev, n.Key.Ino, n.Kind
	if handle != nil {
		row.Handle = t.tables.AddText(uint64(handle.Type()), handle.Bytes())
	}
	t.tables.Set(&row.FD, n.FD)
	row.Lookups.Store(1)
	row.ID.Store(id)
	n.Row.Store(row)
}

// Get returns the inode of a node id, nil if the kernel has forgotten it.
func (t *inodes) Get(id uint64) *Inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byID[id]
}

// countLookup counts a lookup of n for a request. mu is held.
func (t *inodes) countLookup(n *Inode, unique uint64) {
	n.Row.Load().Lookups.Add(1)
	t.tables.CountLookup(unique&^UniqueResent, n.ID)
}

// Again counts a lookup of n for a request. It reports whether the kernel still knows n.
func (t *inodes) Again(n *Inode, unique uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[n.ID] != n {
		return false
	}
	t.countLookup(n, unique)
	return true
}

// Peek returns the inode of the file with a key at the entry name of the directory dirfd, or of dirfd itself if name
// is empty. It counts no lookup. It returns nil if the kernel does not know the file.
func (t *inodes) Peek(key FileKey, dirfd int, name string) *Inode {
	t.mu.RLock()
	n := t.byKey[key]
	t.mu.RUnlock()
	if n == nil || !n.Is(key, dirfd, name) {
		return nil
	}
	return n
}

// Add puts the inode of the file fd into the table, with the handle to record, and counts a lookup for a request. If the
// inode is in the table already, it closes fd and added is false. If the inode is opened by handle, fd is kept (held).
func (t *inodes) Add(
	key FileKey, fd int, handle, stored *unix.FileHandle, kind uint32, in *fuse.InHeader,
) (n *Inode, added bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.byKey[key]; n != nil && n.Is(key, fd, "") {
		unix.Close(fd)
		t.countLookup(n, in.Unique)
		return n, false
	}
	n = &Inode{ID: t.tables.Head.NextNode.Add(1) - 1, Key: key, FD: fd, handle: handle, Kind: kind}
	if handle != nil {
		n.FD = -1
		n.held.kept = 1
		n.held.fd.Store(int32(fd) + 1)
	} else {
		n.user, n.counted = in.Uid, true
		t.descriptors++
		t.pinnedBy[n.user]++
	}
	t.write(n, n.ID, stored)
	t.tables.CountLookup(in.Unique&^UniqueResent, n.ID)
	t.byID[n.ID], t.byKey[key] = n, n
	return n, true
}

// Unfind takes back the lookup of id that was counted for a request.
func (t *inodes) Unfind(id, unique uint64) {
	if id == 0 {
		return
	}
	t.tables.UncountLookup(unique&^UniqueResent, id)
	t.Forget(id, 1)
}

// Forget takes back count lookups.
func (t *inodes) Forget(id, count uint64) {
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

// take takes back count lookups of n and returns how many are left. mu is held.
func (t *inodes) take(n *Inode, count uint64) uint64 {
	left := n.Row.Load().Lookups.Load()
	left -= min(count, left)
	n.Row.Load().Lookups.Store(left)
	return left
}

// remove removes n from the table. mu is held.
func (t *inodes) remove(n *Inode) {
	delete(t.byID, n.ID)
	if t.byKey[n.Key] == n {
		delete(t.byKey, n.Key)
	}
	if n.FD >= 0 {
		t.descriptors--
	}
	if n.counted {
		if t.pinnedBy[n.user]--; t.pinnedBy[n.user] == 0 {
			delete(t.pinnedBy, n.user)
		}
	}
	// A goroutine that still uses n goes on with a row that is in no table.
	row, last := n.Row.Load(), &handover.InodeRow{}
	last.Flags.Store(row.Flags.Load())
	n.Row.Store(last)
	row.ID.Store(0)
	closeFD(n.FD)
	n.held.end()
	t.tables.DropText(row.Place.Load())
	t.tables.DropText(row.Handle)
	t.tables.Inodes.Give(row)
}

// pinned returns how many inodes have a descriptor.
func (t *inodes) pinned() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors
}

// pinnedFor returns how many inodes have a descriptor, and how many of these count for a user.
func (t *inodes) pinnedFor(uid uint32) (all, theirs int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.descriptors, t.pinnedBy[uid]
}

// unused returns the node ids of up to most inodes that are not open. Directories come last: the kernel cannot forget
// a directory before the files in it.
func (t *inodes) unused(most int) (ids []uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var dirs []uint64
	for id, n := range t.byID {
		switch {
		case len(ids)+len(dirs) == most:
			return append(ids, dirs...)
		case n.IsDir() && id != fuse.FUSE_ROOT_ID:
			dirs = append(dirs, id)
		case !n.IsDir() && !n.Opens.Any():
			ids = append(ids, id)
		}
	}
	return append(ids, dirs...)
}

// Place records that n is the entry name of parent, which is a lock name or not.
func (t *inodes) Place(n, parent *Inode, name string, lockNamed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.parent == parent && n.name == name && n.LockNamed() == lockNamed {
		return
	}
	before := n.Row.Load().Place.Load()
	n.Row.Load().Place.Store(t.tables.AddText(parent.ID, []byte(name)))
	t.tables.DropText(before)
	n.parent, n.name = parent, name
	n.setLockNamed(lockNamed)
}

// ParentOf returns the directory where n was last seen, nil if it has no place.
func (t *inodes) ParentOf(n *Inode) *Inode {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return n.parent
}

// Path returns the path of the entry name of dir, relative to the root.
func (t *inodes) Path(dir *Inode, name string) string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return pathLocked(dir, name)
}

func pathLocked(dir *Inode, name string) string {
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

// PlacePath returns the path where n was last seen, and whether it has a place.
func (t *inodes) PlacePath(n *Inode) (string, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if n.parent == nil {
		return "", false
	}
	return pathLocked(n.parent, n.name), true
}

// Size returns how many inodes the kernel knows.
func (t *inodes) Size() int {
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
