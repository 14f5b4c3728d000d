package lockstore

import (
	"context"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/journal"
)

// Store knows which locks there are and who holds them. Its methods may be called from many goroutines.
//
// Lock order, outermost first: tree; a name lock, two of them by name; changes; mu or a mutex of the authority's;
// within mu, waiting.mu, then processes.mu; within a mutex of the journal, reclaimed.mu.
type Store struct {
	// tree is held for reading within every name lock, for writing while a directory is renamed.
	tree      sync.RWMutex
	nameLocks nameLocks

	sys            bootid.System
	boot           bootid.Boot
	here           *authority.Origin
	began          time.Time
	files          Files
	log            logrus.FieldLogger
	now            func() time.Time
	staleAfter     time.Duration
	maxHold        time.Duration
	maxPerUser     int
	user           uint32 // the user the mount belongs to
	attributes     func(name string) Attributes
	owner          *os.File // holds the state directory
	authority      authority.Authority
	ctx            context.Context // of calls of the authority
	stop           context.CancelFunc
	reclaimed      *reclaimed
	processes      processes
	kinship        *answers[[2]processKey, bool]
	lookups        *answers[int, lookup]
	events         subscribers
	waiting        waiting
	background     sync.WaitGroup // compaction and syncs
	compacting     atomic.Bool    // a compaction runs in the background
	pendingPayload pendingPayload
	settledSync    syncing
	acquiredSync   syncing
	unverified     atomic.Int64    // how many recovered locks were not looked at yet
	making         map[uint64]bool // Predecessor.Making

	// changes is held for reading while a record is changed both at the authority and in the fields below, in either
	// order. While it is held for writing, the two agree.
	changes sync.RWMutex

	// mu guards the fields below and the fields of every record. It is not held over input or output, nor over
	// calls of the authority.
	mu            sync.Mutex
	locks         map[string]*record
	byUser        map[uint32]int               // how many locks each user has made or is about to make
	settled       map[string]authority.Settled // the files that are known to be no locks, by name
	settledByUser map[uint32]int               // how many of them each user owns
	reopened      []*record                    // the locks of Predecessor.Open
	recent        []Reaping                    // the last locks that were reaped, oldest first
}

// record is a lock as the running store keeps it. The map has another record at a name only through that name's
// name lock.
type record struct {
	kept
	holder         *watched      // nil if unidentified
	creator        *watched      // nil if unidentified
	closedAfter    time.Duration // from Store.began until the descriptor it was made with was closed; 0 before
	closed         chan struct{} // closed with the descriptor; nil if nobody waits for that
	open           bool          // the descriptor it was made with is open
	closedByEnd    bool          // the descriptor was closed while the creator was ending
	gone           bool          // the map does not have it any more
	pendingPayload bool          // its payload was not read since the descriptor was closed
	unverified     bool          // it was not looked at since it was recovered
}

// hasAncestor reports whether w is an ancestor of r's creator.
func (r *record) hasAncestor(w *watched) bool {
	return r.ancestorSet != nil && slices.Contains(r.ancestorSet.watched, w)
}

// Descriptor stands for the open file description a lock was made with.
type Descriptor struct{ record *record }

// Generation returns the generation of the lock.
func (d *Descriptor) Generation() uint64 { return d.record.Generation }

// Creator returns the process that made the lock, zero if it is not known.
func (d *Descriptor) Creator() bootid.Process { return *d.record.Creator }

// Open takes the state directory, recovers the recorded locks and watches their holders. Each lock is judged when
// it is next looked at, at the latest by Verify. Open returns ErrInUse, ErrNewerFormat, or what the system says of
// the directory.
func Open(o Options) (*Store, error) {
	s := &Store{
		sys: o.System, boot: o.System.Boot(), files: o.Files, log: o.Log, now: o.Now, authority: o.Authority,
		staleAfter: o.StaleAfter, maxHold: o.MaxHold, attributes: o.Attributes, making: o.Predecessor.Making,
		maxPerUser: o.MaxPerUser, user: o.Owner, byUser: make(map[uint32]int), settledByUser: make(map[uint32]int),
		kinship: newKinship(), lookups: newLookups(),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.events.observe = o.Observe
	if s.now == nil {
		s.now = time.Now
	}
	s.here = &authority.Origin{BootID: s.boot.ID, MachineID: s.boot.MachineID, Namespace: s.sys.Namespace()}
	s.processes = processes{sys: o.System, now: s.now, ended: s.processEnded, all: make(map[processKey]*watched)}
	var err error
	if s.owner, err = ownDir(o.StateDir); err != nil {
		return nil, err
	}
	if err = s.openAuthority(o); err != nil {
		s.stop()
		s.owner.Close()
		return nil, err
	}
	return s, nil
}

// openAuthority recovers what the authority has, and follows it from then on.
func (s *Store) openAuthority(o Options) (err error) {
	if s.reclaimed, err = openReclaimed(o.StateDir); err != nil {
		return err
	}
	ahead, recovered := o.Predecessor.Ahead.take(s.now())
	if s.authority == nil {
		s.authority = journal.New(journal.Options{
			Dir: o.StateDir, Ahead: ahead, GiveWay: s.reclaimed.giveWay, Log: o.Log,
		})
	}
	if err := s.authority.Recover(s.ctx, recovered); err != nil {
		return err
	}
	s.recover(recovered, o)
	return s.authority.Watch(s.ctx, s.changedElsewhere)
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

// detach undoes attach.
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
	for _, why := range []*syncing{&s.settledSync, &s.acquiredSync} {
		if timer := why.timer.Load(); timer != nil && timer.Stop() {
			s.background.Done()
			s.sync()
		}
	}
	s.background.Wait()
	s.stop()
	err := s.authority.Close()
	s.owner.Close()
	return err
}

// Subscribe returns the transitions from now on.
func (s *Store) Subscribe() *Subscription { return s.events.add() }

// Followed reports whether anybody observes events.
func (s *Store) Followed() bool { return s.events.some() }

// Reclaimed lists the kept lock files that were removed.
func (s *Store) Reclaimed() []Reclaimed { return s.reclaimed.list() }

// fields describes a lock for the log.
func fields(l Lock) logrus.Fields {
	return logrus.Fields{"path": l.Name, "holder": l.Holder.String(), "generation": l.Generation}
}
