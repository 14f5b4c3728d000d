package lockstore

import "sync"

// name locks are the critical name locks of the names somebody is in.
type nameLocks struct {
	mu   sync.Mutex
	used map[string]*nameLockLock
	pool sync.Pool
}

type nameLockLock struct {
	sync.Mutex
	users int // guarded by name locks.mu
}

func (ss *nameLocks) enter(name string) *nameLockLock {
	ss.mu.Lock()
	if ss.used == nil {
		ss.used = make(map[string]*nameLockLock)
	}
	lock := ss.used[name]
	if lock == nil {
		lock, _ = ss.pool.Get().(*nameLockLock)
		if lock == nil {
			lock = &nameLockLock{}
		}
		ss.used[name] = lock
	}
	lock.users++
	ss.mu.Unlock()
	lock.Lock()
	return lock
}

func (ss *nameLocks) leave(name string, lock *nameLockLock) {
	lock.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(ss.used, name)
		ss.pool.Put(lock)
	}
}

// NameLock is the critical name lock of one name: whoever is in it decides alone about
// the lock and the file of that name. It is for one goroutine and ends with Leave.
type NameLock struct {
	store  *Store
	name   string
	lock   *nameLockLock
	second bool // of EnterBoth: the first one holds the tree
}

// Enter waits for the name lock of name and takes it.
func (s *Store) Enter(name string) NameLock {
	s.tree.RLock()
	nameLock := NameLock{store: s, name: name, lock: s.nameLocks.enter(name)}
	nameLock.verify()
	return nameLock
}

// EnterBoth takes the name locks of two different names, in an order that cannot
// deadlock. Both are to be left before anything else is entered.
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
