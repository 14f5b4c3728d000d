package lockstore

import (
	"sync"
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

// kinship answers the same for looks, where it may be a moment old: a listing asks it for
// every lock there is.
type kinship struct {
	sys bootid.System

	mu    sync.Mutex
	known map[[2]processKey]kin
}

type kin struct {
	related bool
	at      time.Time
}

const (
	kinshipLifetime = time.Second
	maxKinship      = 4096
)

func (k *kinship) related(a, b bootid.Process) bool {
	if !a.Known() || !b.Known() || a.Same(b) {
		return a.Known() && b.Known()
	}
	pair := [2]processKey{{a.PID, a.StartTime}, {b.PID, b.StartTime}}
	now := time.Now()
	k.mu.Lock()
	known, ok := k.known[pair]
	k.mu.Unlock()
	if ok && now.Sub(known.at) < kinshipLifetime {
		return known.related
	}
	known = kin{related(k.sys, a, b), now}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil || len(k.known) >= maxKinship {
		k.known = make(map[[2]processKey]kin)
	}
	k.known[pair] = known
	return known.related
}
