package lockstore

import (
	"slices"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// Lock is what the store knows of one lock. It is a copy.
type Lock struct {
	// Name is the path of the lock file, relative to the mount's root.
	Name string
	// Kind is how it was made.
	Kind verdict.Kind
	// Generation grows with every acquisition: a fencing token.
	Generation uint64
	// Made is when it was acquired.
	Made time.Time
	// BootID and MachineID are those of the boot it was made under, empty if unknown.
	BootID    string
	MachineID string
	// Namespace is the pid namespace of its pids: that of latchfs when it was made.
	Namespace bootid.Namespace
	// Creator is the process whose system call made it, or the zero Process.
	Creator bootid.Process
	// Holder is the process it belongs to: the Creator unless the payload names another,
	// or an ancestor stands in for it.
	Holder bootid.Process
	// Ancestors are those of the creator when it made the lock, the nearest first, if they can come to hold it.
	Ancestors []bootid.Process
	// Rule is how Holder was found.
	Rule verdict.Rule
	// Left reports that its holder ended with status 0 and did not remove it.
	Left bool
	// Furnished reports that its creator itself has put something into the directory that it is.
	Furnished bool
}

// nobody is the process that is not known.
var nobody bootid.Process

// kept is a Lock as the store keeps it. There may be a million, so they share what they have in common. What is
// shared is never changed.
type kept struct {
	Name            string
	Generation      uint64
	made            time.Duration // since Store.began
	origin          *authority.Origin
	Creator, Holder *bootid.Process // never nil
	ancestorSet     *ancestorSet    // nil without ancestors
	kind            uint8           // index of verdict.Kinds
	rule            uint8           // index of verdict.Rules
	left            bool            // its holder ended with status 0 and did not remove it
	furnished       bool            // its creator has put something into it
}

// ancestorSet is the ancestors of a lock's creator.
type ancestorSet struct {
	processes []bootid.Process
	watched   []*watched // nil if they are those of another boot
}

// numberOf returns the index of value, which is one of all.
func numberOf[T comparable](all []T, value T) uint8 { return uint8(slices.Index(all, value)) }

func (k *kept) Kind() verdict.Kind { return verdict.Kinds[k.kind] }
func (k *kept) Rule() verdict.Rule { return verdict.Rules[k.rule] }

func (k *kept) ancestors() []bootid.Process {
	if k.ancestorSet == nil {
		return nil
	}
	return k.ancestorSet.processes
}

// keep returns an authority's record as a store keeps it that began at a time.
func keep(r authority.Record, began time.Time) kept {
	k := kept{
		Name: r.Name, Generation: r.Generation, made: r.Made.Sub(began), origin: r.Origin,
		Creator: r.Creator, Holder: r.Holder, left: r.Left, furnished: r.Furnished,
		kind: numberOf(verdict.Kinds[:], r.Kind), rule: numberOf(verdict.Rules[:], r.Rule),
	}
	if len(r.Ancestors) > 0 {
		k.ancestorSet = &ancestorSet{processes: r.Ancestors}
	}
	return k
}

// stored returns k as an authority keeps it.
func (k *kept) stored(began time.Time) authority.Record {
	return authority.Record{
		Name: k.Name, Kind: k.Kind(), Generation: k.Generation, Made: began.Add(k.made), Origin: k.origin,
		Creator: k.Creator, Holder: k.Holder, Ancestors: k.ancestors(), Rule: k.Rule(),
		Left: k.left, Furnished: k.furnished,
	}
}

// lock returns k as others see it.
func (k *kept) lock(began time.Time) Lock {
	return Lock{
		Name: k.Name, Kind: k.Kind(), Generation: k.Generation, Made: began.Add(k.made),
		BootID: k.origin.BootID, MachineID: k.origin.MachineID, Namespace: k.origin.Namespace,
		Creator: *k.Creator, Holder: *k.Holder, Ancestors: k.ancestors(), Rule: k.Rule(),
		Left: k.left, Furnished: k.furnished,
	}
}
