package lockstore

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/lockstore/authority"
	"latchfs/lockstore/journal"
	"latchfs/lockstore/verdict"
)

// progressEvery is the number of recovered locks after which progress is reported.
const progressEvery = 1024

// recovered is an authority.Replica: what the authority has recorded, before a store runs.
type recovered struct {
	began   time.Time // of the store
	locks   map[string]*record
	inOrder []*record // the same and some that are gone, as they were put
	settled map[string]authority.Settled
}

func (c *recovered) Reset(locks int) {
	c.locks, c.inOrder = make(map[string]*record, locks), make([]*record, 0, locks)
	c.settled = make(map[string]authority.Settled)
}

func (c *recovered) Put(l authority.Record) {
	r := &record{kept: keep(l, c.began), unverified: true}
	if before := c.locks[l.Name]; before != nil {
		before.gone = true
	}
	c.locks[l.Name] = r
	c.inOrder = append(c.inOrder, r)
}

func (c *recovered) Delete(name []byte, generation uint64) {
	if r := c.locks[string(name)]; r != nil && r.Generation == generation {
		delete(c.locks, r.Name)
		r.gone = true
	}
}

func (c *recovered) Settle(name string, file authority.Settled) { c.settled[name] = file }
func (c *recovered) Unsettle(name []byte)                       { delete(c.settled, string(name)) }

func (c *recovered) Begin(begin func()) { begin() }

func (c *recovered) Records(yield func(authority.Record) error) error {
	for _, r := range c.inOrder {
		if r.gone {
			continue
		}
		if err := yield(r.stored(c.began)); err != nil {
			return err
		}
	}
	return nil
}

func (c *recovered) SettledFiles() map[string]authority.Settled { return c.settled }

// Ahead is a journal that is read before its state directory is free.
type Ahead struct {
	journal   *journal.Ahead
	recovered *recovered // nil once it was taken
}

// ReadAhead begins to read the journal in a state directory, for Predecessor.Ahead.
func ReadAhead(stateDir string) *Ahead {
	c := &recovered{began: time.Now()}
	return &Ahead{journal.ReadAhead(stateDir, c), c}
}

// take returns, once, what was read. A store that has nothing to take recovers into an empty copy, and began now.
func (a *Ahead) take(now time.Time) (*journal.Ahead, *recovered) {
	if a == nil || a.recovered == nil {
		return nil, &recovered{began: now}
	}
	c := a.recovered
	a.recovered = nil
	return a.journal, c
}

// recover takes the recorded locks over. Their files were not looked at yet.
func (s *Store) recover(from *recovered, o Options) {
	s.mu.Lock() // a watch may report a death at once
	s.began, s.locks, s.settled = from.began, from.locks, from.settled
	for _, file := range s.settled {
		s.settledByUser[file.UID]++
	}
	s.unverified.Store(int64(len(s.locks)))
	done := 0
	for _, r := range from.inOrder {
		if r.gone {
			continue
		}
		if r.open = o.Predecessor.Open[r.Generation]; r.open {
			s.reopened = append(s.reopened, r)
		}
		s.byUser[r.Creator.UID]++
		if s.isOfHere(r.origin) {
			s.attach(r, r.Creator, r.Holder)
		}
		if done++; done%progressEvery == 0 && o.Progress != nil {
			o.Progress(done, len(s.locks))
		}
	}
	s.mu.Unlock()
	for _, rename := range o.Predecessor.Renames {
		s.finishRename(rename)
	}
}

// finishRename records a rename that the predecessor carried out.
func (s *Store) finishRename(r Rename) {
	if r.Lock && !r.Exchange {
		from, to := s.EnterBoth(r.Old, r.New)
		if to.record() == nil {
			from.Move(to)
		}
		to.Leave()
		from.Leave()
	}
	s.tree.Lock()
	defer s.tree.Unlock()
	s.moveTree(r.Exchange, r.Old, r.New)
}

// Verify looks at each recovered lock that was not looked at yet, until stopped reports true. A lock whose file is
// gone is released, a stale one is reaped.
func (s *Store) Verify(stopped func() bool) {
	recorded := s.unverified.Load()
	if recorded == 0 {
		return
	}
	s.mu.Lock()
	records := slices.Collect(maps.Values(s.locks))
	s.mu.Unlock()
	for _, r := range records {
		if stopped() {
			return
		}
		if nameLock, ok := s.enterRecord(r); ok {
			nameLock.Leave()
		}
	}
	s.log.WithFields(logrus.Fields{"recorded": recorded, "held": s.Count()}).Info("recovered locks")
}

// verify looks at the lock of the name if it was recovered and was not looked at yet. Enter calls it, so that
// nobody sees such a lock within its name lock.
func (c NameLock) verify() {
	s := c.store
	if s.unverified.Load() == 0 {
		return
	}
	s.mu.Lock()
	r := s.locks[c.name]
	if r == nil || !r.unverified {
		s.mu.Unlock()
		return
	}
	r.unverified = false
	s.mu.Unlock()
	defer s.unverified.Add(-1) // until then Get waits for the name lock
	file, err := s.files.Stat(c.name)
	if errors.Is(err, fs.ErrNotExist) && !s.making[r.Generation] {
		// Its release was not recorded, or not yet.
		c.Look(nil, nil)
		return
	}
	c.lookRecorded()
	c.readRecovered(file)
}

// readRecovered reads the payload of a recovered lock, unless the record shows that it was read: then it is the
// payload that names the holder.
func (c NameLock) readRecovered(file File) {
	r := c.record()
	if r == nil {
		return
	}
	l := c.store.state(r)
	unread := l.Kind == verdict.KindCreate && !l.open && l.Rule == verdict.RuleCreator
	if unread && (file.Size > 0 || file.Type != Regular) {
		c.store.identify(r)
	}
}
