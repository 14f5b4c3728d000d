package lockstore

import (
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
)

// Options are what a Store is made of.
type Options struct {
	// StateDir is the directory of the journal and of reclaimed files, outside the mount. Open makes it if it is
	// missing.
	StateDir string
	// System is the machine whose processes hold locks.
	System bootid.System
	// Files is the directory beneath the mount.
	Files Files
	// Authority records the locks; nil is the journal in StateDir.
	Authority authority.Authority
	// Attributes returns the attributes of the lock at a path; nil means that no lock has any.
	Attributes func(name string) Attributes
	// Predecessor is what a server that has died left behind, if this one continues its mount.
	Predecessor Predecessor
	// StaleAfter is the age at which an unknown lock becomes stale; 0 is never.
	StaleAfter time.Duration
	// MaxHold is the age at which an exclusive lock is stale though its holder lives; 0 is never.
	MaxHold time.Duration
	// MaxPerUser is how many existing locks the processes of one user may have made; 0 is no limit. Root and Owner
	// have none.
	MaxPerUser int
	// Owner is the user the mount belongs to.
	Owner uint32
	// Observe is called with every event while it happens. It must not wait, nor call the Store. It may be nil.
	Observe func(Event)
	// Progress is called now and then with how many of all locks were recovered. It may be nil.
	Progress func(done, all int)
	// Log receives one entry for each transition.
	Log logrus.FieldLogger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Predecessor is what a dead server of the same mount left to the one that continues it: the kernel still has the
// descriptors it opened, and sends again the requests it did not answer. The zero value is that of a new mount.
type Predecessor struct {
	// Ahead is the journal, if it was read while the predecessor still had the state directory; nil if it was not.
	Ahead *Ahead
	// Open has the generations of the locks whose descriptor the predecessor opened and the kernel still has.
	Open map[uint64]bool
	// Making has the generations of the locks whose files the predecessor may not have made yet.
	Making map[uint64]bool
	// Renames are those that the predecessor may have carried out without recording them.
	Renames []Rename
}

// Rename is a file or directory that was renamed.
type Rename struct {
	Old, New string
	// Lock reports that the file itself was renamed from one lock name to another.
	Lock bool
	// Exchange reports that the file at New got the name Old.
	Exchange bool
}
