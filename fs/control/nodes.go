//go:build linux

package control

import (
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/fs/channel"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// node is an entry of the directories lock and wait, or deeper. A file there stands for the lock name of the same path
// in the mount, a directory for the directory of that path.
type node struct {
	id uint64
	place
	mode uint32
	row  *handover.InodeRow // outlives the server, with FlagControl; its kind is the whole mode
}

// place is where a node is.
type place struct {
	tree uint64 // lockID or waitID; 0 is no place
	path string // in the mount
}

// nodes are the nodes that the kernel knows.
type nodes struct {
	mu      sync.RWMutex
	byID    map[uint64]*node
	byPlace map[place]*node
}

func (ns *nodes) get(id uint64) *node {
	if id&Dynamic == 0 {
		return nil
	}
	ns.mu.RLock()
	defer ns.mu.RUnlock()
	return ns.byID[id]
}

func (ns *nodes) add(n *node) {
	if ns.byID == nil {
		ns.byID, ns.byPlace = make(map[uint64]*node), make(map[place]*node)
	}
	ns.byID[n.id], ns.byPlace[n.place] = n, n
}

// find returns the node of a place in the directory with the node id dir, and counts a lookup of it for a request. It
// returns nil if there is no room for another node.
func (ns *nodes) find(t *handover.Tables, dir uint64, at place, mode uint32, request uint64) *node {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.byPlace[at]
	if n != nil && n.mode == mode {
		n.row.Lookups.Add(1)
	} else {
		text := t.AddText(dir, []byte(path.Base(at.path)))
		if text == 0 {
			return nil
		}
		n = &node{id: Dynamic | t.Head.NextNode.Add(1) - 1, place: at, mode: mode, row: t.Inodes.Take()}
		n.row.Kind = mode
		n.row.Flags.Store(handover.FlagControl)
		n.row.Place.Store(text)
		n.row.Lookups.Store(1)
		n.row.ID.Store(n.id)
		ns.add(n)
	}
	t.CountLookup(request&^channel.UniqueResent, n.id)
	return n
}

// takeOver adds the nodes that a dead server recorded.
func (ns *nodes) takeOver(t *handover.Tables, rows []*handover.InodeRow) {
	byID := make(map[uint64]*handover.InodeRow)
	for _, row := range rows {
		byID[row.ID.Load()] = row
	}
	for id, row := range byID {
		dir, name := t.Text(row.Place.Load())
		at := place{dir, string(name)}
		for byID[at.tree] != nil {
			dir, name := t.Text(byID[at.tree].Place.Load())
			at = place{dir, path.Join(string(name), at.path)}
		}
		ns.add(&node{id: id, place: at, mode: row.Kind, row: row})
	}
}

// Forget takes lookups of a node back.
func (d *Dir) Forget(id, lookups uint64) {
	ns := &d.nodes
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n := ns.byID[id]
	if n == nil {
		return
	}
	left := n.row.Lookups.Load()
	left -= min(lookups, left)
	n.row.Lookups.Store(left)
	if left > 0 {
		return
	}
	delete(ns.byID, id)
	if ns.byPlace[n.place] == n {
		delete(ns.byPlace, n.place)
	}
	t := d.host.Tables
	n.row.ID.Store(0)
	t.DropText(n.row.Place.Load())
	t.Inodes.Give(n.row)
}

// Tombstone returns the id of a node for a lock that was reaped, for the inotify notifier to unlink, and counts a lookup
// of it for a request. It reports false if there is no room for another node.
func (d *Dir) Tombstone(path string, mode uint32, request uint64) (id uint64, ok bool) {
	n := d.nodes.find(d.host.Tables, lockID, place{lockID, path}, mode, request)
	if n == nil {
		return 0, false
	}
	return n.id, true
}

// place returns the place of a directory of lock or wait, the zero place for any other node.
func (d *Dir) place(dir uint64) place {
	if dir == lockID || dir == waitID {
		return place{tree: dir}
	}
	if n := d.nodes.get(dir); n != nil && n.mode&unix.S_IFMT == unix.S_IFDIR {
		return n.place
	}
	return place{}
}

// lookupLock finds an entry of lock or wait and counts a lookup of it. It returns id 0 if there is no such entry: lock
// has names of locks, wait any lock name. It returns EACCES if the directory in the mount is closed to the caller.
func (d *Dir) lookupLock(in *fuse.InHeader, name string) (id uint64, err error) {
	at := d.place(in.NodeId)
	if at.tree == 0 {
		return 0, nil
	}
	at.path = path.Join(at.path, name)
	if in.Uid != 0 && !d.host.Access.Names(d.host.Access.Caller(in), at.path) {
		return 0, unix.EACCES
	}
	mode := uint32(unix.S_IFREG | 0o444)
	if !d.host.Locks.Holds(at.path) {
		file, err := d.host.Stat(at.path)
		isDir := err == nil && file.Type == lockstore.Directory
		switch {
		case isDir && (at.tree == waitID || !d.host.IsLockName(name) || d.locksBeneath(at.path)):
			mode = unix.S_IFDIR | 0o555
		case at.tree == lockID || !d.host.IsLockName(name):
			return 0, nil
		}
	}
	d.host.Undo(in)
	if n := d.nodes.find(d.host.Tables, in.NodeId, at, mode, in.Unique); n != nil {
		return n.id, nil
	}
	return 0, nil
}

// locksBeneath reports whether there are locks in a directory or deeper.
func (d *Dir) locksBeneath(dir string) bool {
	return slices.ContainsFunc(d.host.Locks.Names(), func(name string) bool { return strings.HasPrefix(name, dir+"/") })
}

// lockEntries returns the entries of a directory of lock or wait: the locks that the user may see, and the directories
// that contain such locks.
func (d *Dir) lockEntries(dir uint64, to access.User) (entries []fuse.DirEntry) {
	at := d.place(dir)
	if at.tree == 0 {
		return nil
	}
	if at.path != "" {
		at.path += "/"
	}
	kinds := make(map[string]uint32)
	for _, name := range d.host.Locks.Names() {
		rest, ok := strings.CutPrefix(name, at.path)
		if !ok || !d.host.Access.Lists(to, name) {
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
