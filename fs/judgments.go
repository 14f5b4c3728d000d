//go:build linux

package fs

import (
	"sync"

	"latchfs/fs/backing"
	"latchfs/lockstore"
)

// maxJudgments bounds judgments and absentACLs.
const maxJudgments = 1 << 16

// judgments are the cached judgments of files at lock names that the kernel does not know. When the kernel gets to know
// a file, its inode keeps the judgment.
type judgments struct {
	mu    sync.Mutex
	byKey map[backing.FileKey]*lockstore.CachedJudgment
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
	visible = nameLock.Look(file, j.of(key))
	if !visible {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.byKey, key)
	}
	return visible
}

func (j *judgments) of(key backing.FileKey) *lockstore.CachedJudgment {
	j.mu.Lock()
	defer j.mu.Unlock()
	cached := j.byKey[key]
	if cached == nil {
		cached = &lockstore.CachedJudgment{}
		if j.byKey == nil {
			j.byKey = make(map[backing.FileKey]*lockstore.CachedJudgment)
		}
		if len(j.byKey) < maxJudgments {
			j.byKey[key] = cached
		}
	}
	return cached
}

// give moves the judgment of a file to its inode, which the kernel gets to know.
func (j *judgments) give(n *backing.Inode) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if cached := j.byKey[n.Key]; cached != nil {
		n.Seen.TakeOver(cached)
		delete(j.byKey, n.Key)
	}
}

// absentACLs are the files that the kernel does not know and that have no access ACL, with the status change time, in
// ns of Unix time, at which that was so.
type absentACLs struct {
	mu    sync.Mutex
	byKey map[backing.FileKey]int64
}

func (a *absentACLs) set(key backing.FileKey, changed int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byKey == nil {
		a.byKey = make(map[backing.FileKey]int64)
	}
	if len(a.byKey) < maxJudgments {
		a.byKey[key] = changed
	}
}

// give moves what is known of a file to its inode, which the kernel gets to know.
func (a *absentACLs) give(n *backing.Inode) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if changed, ok := a.byKey[n.Key]; ok {
		n.NoACL.Scanned(changed)
		delete(a.byKey, n.Key)
	}
}
