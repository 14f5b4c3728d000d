//go:build linux

package fs

import (
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// controlNode is a file of the directories lock and wait, which stands for a lock name, or a directory
// there, which stands for one of the mount.
type controlNode struct {
	id   uint64
	tree uint64 // controlLock or controlWait
	path string // in the mount
	mode uint32
	row  *handover.InodeRow // what outlives the server
}

// controlNodes are those the kernel knows. Their rows are among those of inodes, with handover.FlagControl; their
// kind is the whole mode.
type controlNodes struct {
	mu     sync.RWMutex
	byID   map[uint64]*controlNode
	byPath map[controlPath]*controlNode
}

type controlPath struct {
	tree uint64
	path string
}

func (cs *controlNodes) get(id uint64) *controlNode {
	if id&controlDynamic == 0 {
		return nil
	}
	cs.mu.RLock()
	defer cs.mu.RUnlock()
	return cs.byID[id]
}

func (cs *controlNodes) add(n *controlNode) {
	if cs.byID == nil {
		cs.byID, cs.byPath = make(map[uint64]*controlNode), make(map[controlPath]*controlNode)
	}
	cs.byID[n.id], cs.byPath[controlPath{n.tree, n.path}] = n, n
}

// find counts a lookup of the node of a path, in the directory of a node id, for a request.
func (cs *controlNodes) find(t *handover.Tables, dir uint64, at controlPath, mode uint32, unique uint64) *controlNode {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n := cs.byPath[at]
	if n != nil && n.mode == mode {
		n.row.Lookups.Add(1)
		t.CountLookup(unique&^backing.UniqueResent, n.id)
		return n
	}
	text := t.AddText(dir, []byte(path.Base(at.path)))
	if text == 0 {
		return nil
	}
	n = &controlNode{id: controlDynamic | t.Head.NextNode.Add(1) - 1, tree: at.tree, path: at.path, mode: mode, row: t.Inodes.Take()}
	n.row.Kind = mode
	n.row.Flags.Store(handover.FlagControl)
	n.row.Place.Store(text)
	n.row.Lookups.Store(1)
	n.row.ID.Store(n.id)
	t.CountLookup(unique&^backing.UniqueResent, n.id)
	cs.add(n)
	return n
}

// takeOver takes the nodes over whose rows a dead server wrote.
func (cs *controlNodes) takeOver(t *handover.Tables, rows []*handover.InodeRow) {
	byID := make(map[uint64]*handover.InodeRow)
	for _, row := range rows {
		byID[row.ID.Load()] = row
	}
	for id, row := range byID {
		dir, name := t.Text(row.Place.Load())
		at := string(name)
		for byID[dir] != nil {
			dir, name = t.Text(byID[dir].Place.Load())
			at = path.Join(string(name), at)
		}
		cs.add(&controlNode{id: id, tree: dir, path: at, mode: row.Kind, row: row})
	}
}

func (cs *controlNodes) forget(t *handover.Tables, id, count uint64) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	n := cs.byID[id]
	if n == nil {
		return
	}
	left := n.row.Lookups.Load()
	left -= min(count, left)
	n.row.Lookups.Store(left)
	if left > 0 {
		return
	}
	delete(cs.byID, id)
	if at := (controlPath{n.tree, n.path}); cs.byPath[at] == n {
		delete(cs.byPath, at)
	}
	n.row.ID.Store(0)
	t.DropText(n.row.Place.Load())
	t.Inodes.Give(n.row)
}

// place is which tree a directory of it is in, and its path in the mount; tree 0 if it is none.
func (c *control) place(dir uint64) (tree uint64, path string) {
	if dir == controlLock || dir == controlWait {
		return dir, ""
	}
	if n := c.nodes.get(dir); n != nil && n.mode&unix.S_IFMT == unix.S_IFDIR {
		return n.tree, n.path
	}
	return 0, ""
}

// lookupLock finds an entry of lock or wait and counts a lookup of it; 0 if there is none: beneath lock is
// what is a lock, beneath wait what may become one. It returns EACCES where the directory itself would be closed to the caller.
func (c *control) lookupLock(in *fuse.InHeader, name string) (id uint64, err error) {
	tree, dir := c.place(in.NodeId)
	if tree == 0 {
		return 0, nil
	}
	at := controlPath{tree, path.Join(dir, name)}
	if in.Uid != 0 && !c.fs.sees(c.fs.accessor(in), at.path, namesIt) {
		return 0, unix.EACCES
	}
	mode := uint32(unix.S_IFREG | 0o444)
	if !c.fs.locks.Holds(at.path) {
		file, err := c.fs.LockFiles().Stat(at.path)
		switch {
		case err == nil && file.Type == lockstore.Directory && (tree == controlWait || !c.fs.IsLockName(name) || c.locksBeneath(at.path)):
			mode = unix.S_IFDIR | 0o555
		case tree == controlLock || !c.fs.IsLockName(name):
			return 0, nil
		}
	}
	c.fs.undo(in)
	if n := c.nodes.find(c.fs.Tables, in.NodeId, at, mode, in.Unique); n != nil {
		return n.id, nil
	}
	return 0, nil
}

// locksBeneath reports whether there are locks in a directory or deeper.
func (c *control) locksBeneath(dir string) bool {
	return slices.ContainsFunc(c.fs.locks.Names(), func(name string) bool { return strings.HasPrefix(name, dir+"/") })
}

// lockEntries are the entries of a directory of lock or wait: the locks there are that a user sees, and the directories
// they are in.
func (c *control) lockEntries(dir uint64, to accessor) (entries []fuse.DirEntry) {
	tree, path := c.place(dir)
	if tree == 0 {
		return nil
	}
	if path != "" {
		path += "/"
	}
	kinds := make(map[string]uint32)
	for _, name := range c.fs.locks.Names() {
		rest, ok := strings.CutPrefix(name, path)
		if !ok || !c.fs.sees(to, name, listsIt) {
			continue
		}
		if dir, _, deeper := strings.Cut(rest, "/"); !deeper {
			kinds[rest] = unix.S_IFREG
		} else if _, ok := kinds[dir]; !ok {
			kinds[dir] = unix.S_IFDIR
		}
	}
	for name, kind := range kinds {
		entries = append(entries, fuse.DirEntry{Name: name, Mode: kind})
	}
	slices.SortFunc(entries, func(a, b fuse.DirEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries
}
