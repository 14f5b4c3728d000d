//go:build linux

package fs

import (
	"sync"

	"latchfs/fs/backing"
	"latchfs/lockstore"
)

// maxUnknown bounds an unknownFiles.
const maxUnknown = 1 << 16

// unknownFiles keeps something of files that the kernel does not know. When the kernel gets to know a file, its inode
// takes it.
type unknownFiles[T any] struct {
	mu    sync.Mutex
	byKey map[backing.FileKey]T
}

// add keeps value for a file, unless there are too many, and returns what is kept if the file has something already.
func (u *unknownFiles[T]) add(key backing.FileKey, value T) T {
	u.mu.Lock()
	defer u.mu.Unlock()
	if kept, ok := u.byKey[key]; ok {
		return kept
	}
	if u.byKey == nil {
		u.byKey = make(map[backing.FileKey]T)
	}
	if len(u.byKey) < maxUnknown {
		u.byKey[key] = value
	}
	return value
}

// take returns what is kept of a file and forgets it.
func (u *unknownFiles[T]) take(key backing.FileKey) (kept T, ok bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	kept, ok = u.byKey[key]
	delete(u.byKey, key)
	return kept, ok
}

// judgments are the cached judgments of files at lock names.
type judgments struct {
	unknownFiles[*lockstore.CachedJudgment]
}

// look judges the file whose name lock is nameLock and whose inode is n, nil if the kernel does not know it. It reports
// whether the file may be seen.
func (j *judgments) look(nameLock lockstore.NameLock, file *lockstore.File, n *backing.Inode) (visible bool) {
	if n != nil {
		return nameLock.Look(file, &n.Seen)
	} else if nameLock.Held() {
		return nameLock.Look(file, &lockstore.CachedJudgment{})
	}
	key := backing.KeyOfFile(*file)
	visible = nameLock.Look(file, j.add(key, &lockstore.CachedJudgment{}))
	if !visible {
		j.take(key)
	}
	return visible
}
