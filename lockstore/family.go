package lockstore

import (
	"time"

	"latchfs/bootid"
)

// related says that a and b are the same process, or one is an ancestor of the other.
func related(sys bootid.System, a, b bootid.Process) bool {
	return a.Known() && b.Known() && (a.Same(b) || descends(sys, a, b) || descends(sys, b, a))
}

// descends says that ancestor is among the living ancestors of p.
func descends(sys bootid.System, p, ancestor bootid.Process) bool {
	// A chain longer than this is not one of real processes.
	for range 10_000 {
		parent, err := sys.Parent(p)
		if err != nil {
			return false
		}
		if parent.Same(ancestor) {
			return true
		}
		p = parent
	}
	return false
}

// newKinship remembers who is related to whom, for looks.
func newKinship() *answers[[2]processKey, bool] {
	return &answers[[2]processKey, bool]{lifetime: time.Second, most: 4096}
}

// relatedLately is related for looks, where it may be a moment old.
func (s *Store) relatedLately(a, b bootid.Process) bool {
	if !a.Known() || !b.Known() || a.Same(b) {
		return a.Known() && b.Known()
	}
	pair := [2]processKey{{a.PID, a.StartTime}, {b.PID, b.StartTime}}
	return s.kinship.get(pair, func(time.Time) bool { return true }, func() bool { return related(s.sys, a, b) })
}
