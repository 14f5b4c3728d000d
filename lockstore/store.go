package lockstore

import (
	"errors"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// Options are what a Store is made of.
type Options struct {
	// StateDir is the directory of the journal, outside the mount. It is made
	// if it is missing.
	StateDir string
	// System is the machine whose processes hold locks.
	System bootid.System
	// Files is the directory beneath the mount.
	Files Files
	// Attributes returns those of the lock at a path; nil is that no lock has any.
	Attributes func(name string) Attributes
	// StaleAfter is the age at which an unknown lock becomes stale; 0 is never.
	StaleAfter time.Duration
	// Open are the generations of locks that were made with a descriptor which is still open: a
	// server that has died opened it.
	Open map[uint64]bool
	// Ahead is the journal, if it was read ahead; nil is one that was not.
	Ahead *Ahead
	// Making are the generations of locks whose files a server that has died may not have made yet:
	// the request comes again.
	Making map[uint64]bool
	// Renames are those that a server that has died may have carried out without recording them.
	Renames []Rename
	// MaxHold is the age at which an exclusive lock is stale though its holder lives; 0 is
	// never.
	MaxHold time.Duration
	// MaxPerUser is how many locks processes of one user may have made that are still there; 0
	// is no limit. There is none for root and for Owner.
	MaxPerUser int
	// Owner is the user the mount belongs to.
	Owner uint32
	// Observe is told of every event while it happens: it must not wait, nor call the Store. It may be nil.
	Observe func(Event)
	// Progress is told now and then how many of all locks were recovered. It may be nil.
	Progress func(done, all int)
	// Log receives one entry a transition.
	Log logrus.FieldLogger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Store is the authority on which locks there are and who holds them. Its methods
// may be called from many goroutines.
type Store struct {
	// tree is held for reading within every name lock, for writing while a directory
	// is renamed. Lock order: tree, a name lock, mu, waiting.mu, processes.mu; mu, journal.mu, reclaimed.mu; two
	// name locks by name.
	tree      sync.RWMutex
	nameLocks nameLocks

	sys            bootid.System
	boot           bootid.Boot
	here           *origin
	began          time.Time
	files          Files
	log            logrus.FieldLogger
	now            func() time.Time
	staleAfter     time.Duration
	maxHold        time.Duration
	maxPerUser     int
	user           uint32 // the user the mount belongs to
	attributes     func(name string) Attributes
	owner          *os.File
	journal        *journal
	reclaimed      *reclaimed
	processes      processes
	kinship        *answers[[2]processKey, bool]
	lookups        *answers[int, lookup]
	events         subscribers
	waiting        waiting
	generation     atomic.Uint64
	background     sync.WaitGroup // compaction and syncs
	pendingPayload pendingPayload
	dropped        syncing
	acquired       syncing
	// unverified is how many recovered locks nobody has looked at yet.
	unverified atomic.Int64
	making     map[uint64]bool

	// mu guards locks and the fields of every record. Journal appends are made
	// under it, so that the journal tells the same order as memory; it is never
	// held over anything else that does input or output.
	mu    sync.Mutex
	locks map[string]*record
	// byUser is how many of them each user has made.
	byUser map[uint32]int
	// settled are the files that are known to be no locks, by their names, and settledByUser how many
	// of them each user owns.
	settled       map[string]settledFile
	settledByUser map[uint32]int
	// reopened are those of Options.Open.
	reopened []*record
	// recent are the last locks that were reaped, oldest first.
	recent []Reaping
}

// progressEvery is after how many locks progress is told.
const progressEvery = 1024

// maxRecent is how many reaped locks are remembered.
const maxRecent = 100

// Reaping is a lock that was reaped, and why.
type Reaping struct {
	Lock
	verdict.Judgment
	Time time.Time
}

// record is a lock as the running store keeps it. What is in the map under a name
// changes only within that name's name lock.
type record struct {
	kept
	holder         *watched      // nil if unidentified
	creator        *watched      // nil if unidentified
	closedAfter    time.Duration // from Store.began until the descriptor it was made with was closed; 0 if it was not
	closed         chan struct{} // closed with it; nil if nobody waits for that
	open           bool          // that descriptor is open
	closedByEnd    bool          // it was closed while the creator was ending
	gone           bool          // not in the map any more
	pendingPayload bool          // its payload was not read since the descriptor was closed
	unverified     bool          // it was not looked at since the journal was read
}

// hasAncestor says that w is an ancestor of r's creator.
func (r *record) hasAncestor(w *watched) bool {
	return r.ancestorSet != nil && slices.Contains(r.ancestorSet.watched, w)
}

// Descriptor stands for the open file description a lock was made with.
type Descriptor struct{ record *record }

// Generation is that of the lock.
func (d *Descriptor) Generation() uint64 { return d.record.Generation }

// Creator is the process that made the lock, zero if it is not known.
func (d *Descriptor) Creator() bootid.Process { return *d.record.Creator }

// Entry is a lock and what is known of its holder now.
type Entry struct {
	Lock
	verdict.Judgment
	// Open says that the descriptor it was made with is open.
	Open bool
}

// Open takes the state directory and reads its journal: the holders that live are watched again. Each lock is judged when
// it is next looked at, at the latest by Verify. It returns ErrInUse or ErrNewerFormat, or what the system says of the
// directory.
func Open(o Options) (*Store, error) {
	s := &Store{
		sys: o.System, boot: o.System.Boot(), files: o.Files, log: o.Log, now: o.Now,
		staleAfter: o.StaleAfter, maxHold: o.MaxHold, attributes: o.Attributes,
		maxPerUser: o.MaxPerUser, user: o.Owner, byUser: make(map[uint32]int), settledByUser: make(map[uint32]int),
		kinship: newKinship(), lookups: newLookups(),
	}
	s.events.observe = o.Observe
	if s.now == nil {
		s.now = time.Now
	}
	s.began, s.making = s.now(), o.Making
	s.here = &origin{s.boot.ID, s.boot.MachineID, s.sys.Namespace()}
	s.processes = processes{sys: o.System, now: s.now, ended: s.processEnded, all: make(map[processKey]*watched)}
	var err error
	if s.owner, err = ownDir(o.StateDir); err != nil {
		return nil, err
	}
	if s.reclaimed, err = openReclaimed(o.StateDir); err != nil {
		s.owner.Close()
		return nil, err
	}
	var said *replayed
	if s.journal, said, err = openJournal(o.StateDir, o.Ahead, o.Log); err != nil {
		s.owner.Close()
		return nil, err
	}
	s.journal.giveWay = s.reclaimed.giveWay
	s.generation.Store(said.generation)
	s.recover(said, o)
	return s, nil
}

// Rename is a file or directory that was renamed. With Exchange the other one got the old name.
type Rename struct {
	Old, New string
	// Lock says that the file itself was renamed from one lock name to another.
	Lock     bool
	Exchange bool
}

// recover takes the locks of the journal over. Their files have yet to be looked at.
func (s *Store) recover(journal *replayed, o Options) {
	if mutated("forgets") {
		clear(journal.locks)
		journal.inOrder = nil
	}
	s.mu.Lock() // a death may be told already
	s.locks = journal.locks
	s.recoverSettled(journal.settled)
	s.unverified.Store(int64(len(s.locks)))
	done := 0
	for _, r := range journal.inOrder {
		if r.gone {
			continue
		}
		r.unverified = true
		if r.open = o.Open[r.Generation]; r.open {
			s.reopened = append(s.reopened, r)
		}
		r.made += time.Unix(0, 0).Sub(s.began)
		s.byUser[r.Creator.UID]++
		if !s.boot.Differs(r.origin.BootID) && !s.boot.OnOtherMachine(r.origin.MachineID) && !s.outOfSight(r.origin.Namespace) {
			s.attach(r, r.Creator, r.Holder)
		}
		if done++; done%progressEvery == 0 && o.Progress != nil {
			o.Progress(done, len(s.locks))
		}
	}
	s.mu.Unlock()
	for _, rename := range o.Renames {
		s.finishRename(rename)
	}
}

// Verify looks at the recovered locks that nobody has looked at yet, until it is stopped: one whose file is gone ends, as one
// that is stale does.
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

// verify looks at the lock of the name, if it was recovered and nobody has looked at it yet. Who enters the name lock finds it so.
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
	defer s.unverified.Add(-1) // then it counts for Get too
	file, err := s.files.Stat(c.name)
	if errors.Is(err, fs.ErrNotExist) && !s.making[r.Generation] {
		// Its end was not recorded, or not yet.
		c.Look(nil, nil)
		return
	}
	c.lookRecorded()
	c.readPendingPayload(file)
}

// readPendingPayload reads the payload of a recovered lock, unless it is known to have been: one that
// names somebody says so in the journal.
func (c NameLock) readPendingPayload(file File) {
	r := c.record()
	if r == nil {
		return
	}
	l := c.store.state(r)
	if l.Kind == verdict.KindCreate && !l.open && l.Rule == verdict.RuleCreator && (file.Size > 0 || file.Type != Regular) {
		c.store.identify(r)
	}
}

// finishRename records a rename that was carried out.
func (s *Store) finishRename(r Rename) {
	if r.Lock && !r.Exchange {
		from, to := s.EnterBoth(r.Old, r.New)
		if to.record() == nil {
			from.Move(to)
		}
		to.Leave()
		from.Leave()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moveTree(r.Exchange, r.Old, r.New)
}

// Names are those of the locks there are, in no order; one that is released and taken again meanwhile may be there twice.
func (s *Store) Names() []string {
	const batch = 4096 // mu is not held for long
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.locks))
	for name := range s.locks {
		if names = append(names, name); len(names)%batch == 0 {
			s.mu.Unlock()
			s.mu.Lock()
		}
	}
	return names
}

// Count is how many locks there are.
func (s *Store) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.locks)
}

// Verdicts is how many locks there are of each verdict.
func (s *Store) Verdicts() map[verdict.Verdict]int {
	s.mu.Lock()
	records := slices.Collect(maps.Values(s.locks))
	s.mu.Unlock()
	verdicts := make(map[verdict.Verdict]int)
	for _, r := range records {
		s.mu.Lock()
		holder := r.holder
		s.mu.Unlock()
		// A death is told at once, so the kernel need not be asked for a million.
		if s.maxHold == 0 && s.processes.seemsToRun(holder) {
			verdicts[verdict.Live]++
		} else {
			verdicts[s.judge(r).Verdict]++
		}
	}
	return verdicts
}

// JournalSize is that of the journal's records, in bytes.
func (s *Store) JournalSize() int64 {
	s.journal.mu.Lock()
	defer s.journal.mu.Unlock()
	return s.journal.size
}

// Descriptors are those of Options.Open whose locks are there, by generation.
func (s *Store) Descriptors() map[uint64]*Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	open := make(map[uint64]*Descriptor)
	for _, r := range s.reopened {
		if r.open && !r.gone {
			open[r.Generation] = &Descriptor{r}
		}
	}
	return open
}

// attach makes r depend on its creator, holder and ancestors.
func (s *Store) attach(r *record, creator, holder *bootid.Process) {
	r.creator, r.Creator = s.processes.attachShared(creator, r)
	if r.holder, r.Holder = r.creator, r.Creator; *holder != *creator {
		r.holder, r.Holder = s.processes.attachShared(holder, r)
	}
	for _, a := range r.ancestors() {
		r.ancestorSet.watched = append(r.ancestorSet.watched, s.processes.attach(a, r))
	}
}

// detach ends all of that.
func (s *Store) detach(r *record) {
	s.processes.detach(r.creator, r)
	s.processes.detach(r.holder, r)
	if r.ancestorSet != nil {
		for _, a := range r.ancestorSet.watched {
			s.processes.detach(a, r)
		}
	}
}

// Close gives the state directory up. Locks stay recorded.
func (s *Store) Close() error {
	s.readAll()
	s.processes.close()
	for _, why := range []*syncing{&s.dropped, &s.acquired} {
		if timer := why.timer.Load(); timer != nil && timer.Stop() {
			s.background.Done()
			s.sync()
		}
	}
	s.background.Wait()
	err := s.journal.close()
	s.owner.Close()
	return err
}

// Subscribe returns the transitions from now on.
func (s *Store) Subscribe() *Subscription { return s.events.add() }

// Followed says that somebody is told of events.
func (s *Store) Followed() bool { return s.events.some() }

// All judges every lock there is now whose name is asked for when its turn comes, without any consequence, in the order of names.
func (s *Store) All(asked func(name string) bool) iter.Seq[Entry] {
	names := s.Names()
	return func(yield func(Entry) bool) {
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			if !asked(name) {
				continue
			}
			if entry, ok := s.Get(name); ok && !yield(entry) {
				return
			}
		}
	}
}

// Get judges the lock of a name, without any consequence unless it was recovered; false if there is none.
func (s *Store) Get(name string) (Entry, bool) {
	if s.unverified.Load() > 0 {
		s.Enter(name).Leave()
	}
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	if r == nil {
		return Entry{}, false
	}
	return s.entry(r)
}

// entry judges a lock; false if it is gone.
func (s *Store) entry(r *record) (Entry, bool) {
	s.readNow(r)
	d := s.judge(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := r.lock(s.began)
	if d.Verdict == verdict.Live && d.Holder.Known() {
		l.Holder = d.Holder // to whom it will pass
	}
	return Entry{l, d.Judgment, r.open}, !r.gone
}

// Recent returns the last locks that were reaped, the oldest first.
func (s *Store) Recent() []Reaping {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.recent)
}

// Reclaimed lists what is kept of the lock files that were removed.
func (s *Store) Reclaimed() []Reclaimed { return s.reclaimed.list() }

// Holds says whether there is a lock of that name, whatever its verdict.
func (s *Store) Holds(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.locks[name] != nil
}

// MoveTree renames a directory with do, which returns its old and new name, and moves
// the locks beneath it along; with exchange, those beneath the new name the other way
// as well. Nothing else happens to any lock meanwhile: at gives do the name lock of a name,
// which is not to be left.
func (s *Store) MoveTree(exchange bool, do func(at func(name string) NameLock) (oldDir, newDir string, err error)) error {
	s.tree.Lock()
	defer s.tree.Unlock()
	oldDir, newDir, err := do(func(name string) NameLock { return NameLock{store: s, name: name} })
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.moveTree(exchange, oldDir, newDir)
	s.lookAtAll()
	return nil
}

// moveTree moves the locks beneath a directory along with it; mu is held.
func (s *Store) moveTree(exchange bool, oldDir, newDir string) {
	renamed := renamer(exchange, oldDir, newDir)
	s.moveSettled(renamed)
	renames := make(map[*record]string)
	for name, r := range s.locks {
		if to, ok := renamed(name); ok {
			renames[r] = to
		}
	}
	for r := range renames {
		delete(s.locks, r.Name)
	}
	for r, name := range renames {
		s.rename(r, name)
	}
}

// rename gives r another name; mu is held and the old name is out of the map.
func (s *Store) rename(r *record, name string) {
	if err := s.journal.move(r.lock(s.began), name); err != nil {
		s.log.WithError(err).WithField("path", name).Error("a renamed lock could not be journaled; it will not survive a restart")
	}
	r.Name = name
	s.locks[name] = r
	s.events.publish(Event{Transition: Moved, Lock: r.lock(s.began), Time: s.now()})
}

// syncing says that the journal is about to be synced for the sake of some records.
type syncing struct {
	due   atomic.Bool
	timer atomic.Pointer[time.Timer]
}

// How long records may wait to be synced. After a power cut a lock whose record is lost may be an empty
// file that nothing tells from one that is no lock; but data whose dropping is lost would be taken for
// a stale lock.
const (
	dropDelay    = 100 * time.Millisecond
	acquireDelay = time.Second
)

// syncSoon syncs the journal in the background.
func (s *Store) syncSoon(why *syncing, delay time.Duration) {
	if why.due.Load() || why.due.Swap(true) {
		return
	}
	s.background.Add(1)
	why.timer.Store(time.AfterFunc(delay, func() {
		defer s.background.Done()
		why.due.Store(false)
		s.sync()
	}))
}

func (s *Store) sync() {
	if err := s.journal.sync(); err != nil && !errors.Is(err, os.ErrClosed) { // compacted meanwhile
		s.log.WithError(err).Warn("could not sync the journal")
	}
}

// compactIfDue starts a compaction in the background when one is worth it.
func (s *Store) compactIfDue() {
	if !s.journal.compactionDue() {
		return
	}
	s.background.Add(1)
	go func() {
		defer s.background.Done()
		if err := s.Compact(); err != nil {
			s.log.WithError(err).Warn("could not compact the journal; will try again when it has grown")
		}
	}()
}

// Compact replaces the journal by one that holds only the locks there are. Callers
// of other methods are not held up.
func (s *Store) Compact() error {
	// Locks are handed out a few at a time, so that mu is never held for long, and with as much rest in between, so that a
	// processor is not busy for long either.
	const batch = 128
	s.mu.Lock()
	settled := maps.Clone(s.settled)
	s.mu.Unlock()
	return s.journal.compact(s.generation.Load(), settled, func(yield func(Lock) error) error {
		var pending []Lock
		flush := func() error {
			for i := range pending {
				if err := yield(pending[i]); err != nil {
					return err
				}
			}
			pending = pending[:0]
			return nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.locks {
			if pending = append(pending, r.lock(s.began)); len(pending) < batch {
				continue
			}
			s.mu.Unlock()
			began := time.Now()
			err := flush()
			time.Sleep(time.Since(began))
			s.mu.Lock()
			if err != nil {
				return err
			}
		}
		return flush()
	})
}

// fields describes a lock for the log.
func fields(l Lock) logrus.Fields {
	return logrus.Fields{"path": l.Name, "holder": l.Holder.String(), "generation": l.Generation}
}
