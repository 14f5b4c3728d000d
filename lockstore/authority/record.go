package authority

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// Record is one lock as an authority keeps it. What its pointers lead to is shared by many records and never
// changed.
type Record struct {
	// Name is the path of the lock file, relative to the mount's root.
	Name string
	// Kind is how it was made.
	Kind verdict.Kind
	// Generation grows with every acquisition: a fencing token.
	Generation uint64
	// Made is when it was acquired.
	Made time.Time
	// Origin is the boot, machine and pid namespace under which it was acquired.
	Origin *Origin
	// Creator is the process whose system call made it, or the zero Process. It is never nil.
	Creator *bootid.Process
	// Holder is the process it belongs to. It is never nil.
	Holder *bootid.Process
	// Ancestors are those of the creator that can come to hold it, the nearest first.
	Ancestors []bootid.Process
	// Rule is how the holder was found.
	Rule verdict.Rule
	// Left reports that its holder ended with status 0 and did not remove it.
	Left bool
	// Furnished reports that its creator itself has put something into the directory that it is.
	Furnished bool
}

// Origin is where a lock was made. All locks of one boot share one.
type Origin struct {
	BootID    string
	MachineID string
	Namespace bootid.Namespace
}

// Move is a lock that gets another name.
type Move struct {
	Record // under its old name
	To     string
}

// Change is what another host did to the lock of a name.
type Change struct {
	Record
	// Released reports that the lock is gone; then only the name and the generation are set.
	Released bool
}

// Settled is a file that was found to be no lock by what latchfs saw of its making, though its text alone says
// otherwise: a copy of another process's lock, a number that is no pid. It is no lock for as long as it is the
// same file with the same bytes.
type Settled struct {
	Identity string   // tells the file from every other, also after a reboot
	Sum      [16]byte // of its bytes
	UID      uint32   // its owner when it was found to be no lock
}
