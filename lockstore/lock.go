package lockstore

import (
	"time"

	"latchfs/bootid"
)

// Lock is the record of one exclusive lock, as it is kept in the journal. It is a
// value: the store hands out copies.
type Lock struct {
	// Name is the path of the lock file, relative to the mount's root.
	Name string
	// Generation grows with every acquisition in the mount: a fencing token.
	Generation uint64
	// Made is when it was acquired.
	Made time.Time
	// BootID and MachineID are those of the boot it was made under, empty if
	// unknown.
	BootID    string
	MachineID string
	// Creator is the process whose system call made it, or the zero Process.
	Creator bootid.Process
	// Holder is the process it belongs to. It is the Creator unless the payload
	// names another.
	Holder bootid.Process
	// Rule is how Holder was found.
	Rule Rule
}
