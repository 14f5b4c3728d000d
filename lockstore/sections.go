package lockstore

import "sync"

// sections are the critical sections of the names somebody is in.
type sections struct {
	mu   sync.Mutex
	used map[string]*sectionLock
	pool sync.Pool
}

type sectionLock struct {
	sync.Mutex
	users int // guarded by sections.mu
}

func (ss *sections) enter(name string) *sectionLock {
	ss.mu.Lock()
	if ss.used == nil {
		ss.used = make(map[string]*sectionLock)
	}
	lock := ss.used[name]
	if lock == nil {
		lock, _ = ss.pool.Get().(*sectionLock)
		if lock == nil {
			lock = &sectionLock{}
		}
		ss.used[name] = lock
	}
	lock.users++
	ss.mu.Unlock()
	lock.Lock()
	return lock
}

func (ss *sections) leave(name string, lock *sectionLock) {
	lock.Unlock()
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if lock.users--; lock.users == 0 {
		delete(ss.used, name)
		ss.pool.Put(lock)
	}
}

// Section is the critical section of one name: whoever is in it decides alone about
// the lock and the file of that name. It is for one goroutine and ends with Leave.
type Section struct {
	store  *Store
	name   string
	lock   *sectionLock
	second bool // of EnterBoth: the first one holds the tree
}

// Enter waits for the section of name and takes it.
func (s *Store) Enter(name string) Section {
	s.tree.RLock()
	section := Section{store: s, name: name, lock: s.sections.enter(name)}
	section.verify()
	return section
}

// EnterBoth takes the sections of two different names, in an order that cannot
// deadlock. Both are to be left before anything else is entered.
func (s *Store) EnterBoth(a, b string) (Section, Section) {
	s.tree.RLock()
	first, second := Section{store: s, name: a}, Section{store: s, name: b, second: true}
	if a < b {
		first.lock = s.sections.enter(a)
		second.lock = s.sections.enter(b)
	} else {
		second.lock = s.sections.enter(b)
		first.lock = s.sections.enter(a)
	}
	first.verify()
	second.verify()
	return first, second
}

// Leave ends the section.
func (c Section) Leave() {
	c.store.sections.leave(c.name, c.lock)
	if !c.second {
		c.store.tree.RUnlock()
	}
}
