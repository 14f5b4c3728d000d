package lockstore

import "sync"

// nameLocks has a mutex for each name that somebody is in or waits for.
type nameLocks struct {
	mu   sync.Mutex // guards used and users
	used map[string]*nameMutex
	pool sync.Pool
}

// nameMutex is the mutex of a name lock.
type nameMutex struct {
	sync.Mutex
	users int
}

func (ss *nameLocks) enter(name string) *nameMutex {
	ss.mu.Lock()
	if ss.used == nil {
		ss.used = make(map[string]*nameMutex)
	}
	lock := ss.used[name]
	if lock == nil {
		lock, _ = ss.pool.Get().(*nameMutex)
		if lock == nil {
			lock = &nameMutex{}
		}
		ss.used[name] = lock
	}
	lock.users++
	ss.mu.Unlock()
	lock.Lock()
	return lock
}

func (ss *nameLocks) leave(name string, lock *nameMutex) {
	lock.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(ss.used, name)
		ss.pool.Put(lock)
	}
}

// NameLock is the critical section of one name: its owner alone decides about the lock and the file of that name.
// It is for one goroutine and ends with Leave.
type NameLock struct {
	store  *Store
	name   string
	lock   *nameMutex
	second bool // the second of EnterBoth: the first holds the tree
}

// Enter waits for the name lock of name and takes it.
func (s *Store) Enter(name string) NameLock {
	s.tree.RLock()
	nameLock := NameLock{store: s, name: name, lock: s.nameLocks.enter(name)}
	nameLock.verify()
	return nameLock
}

// EnterBoth takes the name locks of two different names, in an order that cannot deadlock. The caller leaves both
// before it enters another.
func (s *Store) EnterBoth(a, b string) (NameLock, NameLock) {
	s.tree.RLock()
	first, second := NameLock{store: s, name: a}, NameLock{store: s, name: b, second: true}
	if a < b {
		first.lock = s.nameLocks.enter(a)
		second.lock = s.nameLocks.enter(b)
	} else {
		second.lock = s.nameLocks.enter(b)
		first.lock = s.nameLocks.enter(a)
	}
	first.verify()
	second.verify()
	return first, second
}

// Leave ends the name lock.
func (c NameLock) Leave() {
	c.store.nameLocks.leave(c.name, c.lock)
	if !c.second {
		c.store.tree.RUnlock()
	}
}
