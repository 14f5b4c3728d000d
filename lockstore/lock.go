package lockstore

import (
	"slices"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// Lock is the record of one lock, as it is kept in the journal. It is a value: the
// store hands out copies.
type Lock struct {
	// Name is the path of the lock file, relative to the mount's root.
	Name string
	// Kind is how it was made.
	Kind verdict.Kind
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
	Rule verdict.Rule
	// Left says that its holder was seen to end with status 0 and left it.
	Left bool
	// Furnished says that its creator itself has put something into the directory that it is.
	Furnished bool
}

// origin is where and under what a lock was made: all of this boot have it in common.
type origin struct {
	BootID    string
	MachineID string
	Namespace bootid.Namespace
}

// nobody is the process that is not known.
var nobody bootid.Process

// kept is a Lock as the store keeps it, of which there may be a million: what it has in common with others is theirs too,
// and never changed.
type kept struct {
	Name            string
	Generation      uint64
	made            time.Duration // since Store.began
	origin          *origin
	Creator, Holder *bootid.Process // never nil
	ancestorSet     *ancestorSet    // nil without ancestors
	kind            uint8           // of verdict.Kinds
	rule            uint8           // of verdict.Rules
	left            bool            // its holder was seen to end with status 0
	furnished       bool            // its creator has put something into it
}

// ancestors is the ancestors of a lock's creator.
type ancestorSet struct {
	processes []bootid.Process
	watched   []*watched // nil if they are those of another boot
}

// numberOf is the position of value, which is one of all.
func numberOf[T comparable](all []T, value T) uint8 { return uint8(slices.Index(all, value)) }

func (k *kept) Kind() verdict.Kind { return verdict.Kinds[k.kind] }
func (k *kept) Rule() verdict.Rule { return verdict.Rules[k.rule] }

func (k *kept) ancestors() []bootid.Process {
	if k.ancestorSet == nil {
		return nil
	}
	return k.ancestorSet.processes
}

// keep returns l as it is kept by a store that began at a time, with what it has in common with others.
func keep(l Lock, began time.Time, at *origin, creator, holder *bootid.Process) kept {
	k := kept{
		Name: l.Name, Generation: l.Generation, made: l.Made.Sub(began), origin: at, Creator: creator, Holder: holder,
		kind: numberOf(verdict.Kinds[:], l.Kind), rule: numberOf(verdict.Rules[:], l.Rule), left: l.Left, furnished: l.Furnished,
	}
	if len(l.Ancestors) > 0 {
		k.ancestorSet = &ancestorSet{processes: l.Ancestors}
	}
	return k
}

// lock is k as others know it.
func (k *kept) lock(began time.Time) Lock {
	return Lock{
		Name: k.Name, Kind: k.Kind(), Generation: k.Generation, Made: began.Add(k.made),
		BootID: k.origin.BootID, MachineID: k.origin.MachineID, Namespace: k.origin.Namespace,
		Creator: *k.Creator, Holder: *k.Holder, Ancestors: k.ancestors(), Rule: k.Rule(), Left: k.left, Furnished: k.furnished,
	}
}
