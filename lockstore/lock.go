package lockstore

import (
	"time"

	"latchfs/bootid"
)

// Kind is how a lock came to be at its name.
type Kind string

// The kinds of section 4 of the design. All but KindPIDFile are exclusive: the
// existence of the name is the lock.
const (
	KindCreate  Kind = "create" // open(2) with O_EXCL
	KindMkdir   Kind = "mkdir"
	KindSymlink Kind = "symlink"
	KindLink    Kind = "link"
	KindRename  Kind = "rename" // onto a free name
	// KindFound: there already when latchfs first saw it, nobody knows how it was made.
	KindFound Kind = "found"
	// KindPIDFile: an ordinary file that names its writer, or one of its family.
	KindPIDFile Kind = "pid-file"
)

// inherited says that such a lock is made by a command that ends at once, in the service of
// an ancestor.
func (k Kind) inherited() bool { return k == KindMkdir || k == KindSymlink || k == KindLink }

// Lock is the record of one lock, as it is kept in the journal. It is a value: the
// store hands out copies.
type Lock struct {
	// Name is the path of the lock file, relative to the mount's root.
	Name string
	// Kind is how it was made.
	Kind Kind
	// Generation grows with every acquisition in the mount: a fencing token.
	Generation uint64
	// Made is when it was acquired.
	Made time.Time
	// BootID and MachineID are those of the boot it was made under, empty if
	// unknown.
	BootID    string
	MachineID string
	// Namespace is that in which the pids here are numbers: latchfs's own.
	Namespace bootid.Namespace
	// Creator is the process whose system call made it, or the zero Process.
	Creator bootid.Process
	// Holder is the process it belongs to: the Creator unless the payload names another,
	// or an ancestor stands in for it.
	Holder bootid.Process
	// Ancestors are those of the creator when it made the lock, the nearest first, if
	// they can come to hold it.
	Ancestors []bootid.Process
	// Rule is how Holder was found.
	Rule Rule
}

// origin is where and under what a lock was made: all of this boot have it in common.
type origin struct {
	BootID    string
	MachineID string
	Namespace bootid.Namespace
}

// nobody is the process that is not known.
var nobody bootid.Process

// kept is a Lock as the store keeps it, of which there may be a million: what it has in common with others is theirs too
// and never changed.
type kept struct {
	Name            string
	Kind            Kind
	Rule            Rule
	Generation      uint64
	Made            time.Time
	origin          *origin
	Creator, Holder *bootid.Process // never nil
	Ancestors       []bootid.Process
}

// keep returns l as it is kept, with what it has in common with others.
func keep(l Lock, at *origin, creator, holder *bootid.Process) kept {
	return kept{l.Name, l.Kind, l.Rule, l.Generation, l.Made, at, creator, holder, l.Ancestors}
}

func (k *kept) lock() Lock {
	return Lock{
		Name: k.Name, Kind: k.Kind, Generation: k.Generation, Made: k.Made,
		BootID: k.origin.BootID, MachineID: k.origin.MachineID, Namespace: k.origin.Namespace,
		Creator: *k.Creator, Holder: *k.Holder, Ancestors: k.Ancestors, Rule: k.Rule,
	}
}
