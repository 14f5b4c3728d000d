package lockstore

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// related reports whether a and b are the same process, or one is an ancestor of the other.
func related(sys bootid.System, a, b bootid.Process) bool {
	return a.Known() && b.Known() && (a.Same(b) || descends(sys, a, b) || descends(sys, b, a))
}

// descends reports whether ancestor is among the living ancestors of p.
func descends(sys bootid.System, p, ancestor bootid.Process) bool {
	// No chain of real processes is longer.
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

// newKinship returns a cache of which processes are related, for looks.
func newKinship() *answers[[2]processKey, bool] {
	return &answers[[2]processKey, bool]{lifetime: time.Second, most: 4096}
}

// relatedLately is related, for looks: the answer may be a moment old.
func (s *Store) relatedLately(a, b bootid.Process) bool {
	if !a.Known() || !b.Known() || a.Same(b) {
		return a.Known() && b.Known()
	}
	pair := [2]processKey{{a.PID, a.StartTime}, {b.PID, b.StartTime}}
	return s.kinship.get(pair, func(time.Time) bool { return true }, func() bool { return related(s.sys, a, b) })
}

// family is the processes that a text of a writer may name: the writer, its ancestors up to a service or session
// manager, and its descendants.
type family struct {
	store  *Store
	writer bootid.Process // zero if it is not known: then it has no family
	// relatives are those that were found out earlier. They and the writer may have ended.
	relatives []bootid.Process
	// opener is the writer as it was when it opened the file; nil if that was not seen.
	opener *Writer
	// holder is the process that the lock's text was found to name earlier.
	holder bootid.Process
	// script is the process that ran the writer, if the lock was made by a command. Its descendants count too.
	script bootid.Process

	found  bootid.Process // the one of which a claim is true
	hidden error          // why a process that is named cannot be looked at
}

// nobodys returns the family of an unknown writer.
func (s *Store) nobodys() *family { return &family{store: s} }

// familyOf returns the family of the process that made a lock.
func (s *Store) familyOf(l *state) *family {
	f := &family{store: s, writer: l.Creator, relatives: slices.Clone(l.Ancestors)}
	if l.Rule == verdict.RuleNamed {
		f.holder = l.Holder
		f.relatives = append(f.relatives, l.Holder)
	}
	f.relatives = append(f.relatives, s.processes.relatives(l.creator)...)
	for _, a := range l.ancestors {
		if s.runs(a) {
			f.script = a.process
			break
		}
	}
	return f
}

// familyOfWriter is the family of a process that wrote a file.
func (s *Store) familyOfWriter(w *Writer) *family {
	return &family{store: s, writer: w.Process, opener: w}
}

// includes reports whether a claim of a text that was last written at a time is true of a process of
// the family, which is f.found then.
func (f *family) includes(c payload.Claim, written time.Time) bool {
	s := f.store
	if s.boot.Differs(c.BootID) {
		return false
	}
	p, known := f.relative(c.PID)
	if !known {
		var err error
		if p, err = s.sys.InNamespace(c.PID, f.writer); errors.Is(err, bootid.ErrHidden) && !c.Weak {
			f.hidden = err
		}
		// The text cannot mean a process that was started later.
		if err != nil || s.startedAfter(p, written) || !verdict.MayHold(p, f.writer, f.isRelated(p)) {
			return false
		}
	}
	if c.Contradict(p.StartTime, s.sys.StartedAt(p)) || s.namesOther(c.Host) && f.onThisHost(p) {
		return false
	}
	f.found = p
	return true
}

// onThisHost reports whether p has, or has to be assumed to have, the host name of this machine. The host name of a
// process that has ended cannot be found out: a process of our own pid namespace is assumed to have had ours,
// unless it was found to hold the lock while it ran.
func (f *family) onThisHost(p bootid.Process) bool {
	if f.store.sys.SameHost(p) {
		return true
	}
	now, err := f.store.sys.Process(p.PID)
	ended := errors.Is(err, bootid.ErrNoProcess) || err == nil && !now.Same(p)
	return ended && !p.Same(f.holder) && p.PIDNamespace == f.store.sys.Namespace().Inode
}

// relative returns the writer or known relative that has a number in the writer's pid namespace.
func (f *family) relative(pid int) (bootid.Process, bool) {
	if f.writer.NSPID == pid {
		return f.writer, true
	}
	for _, p := range f.relatives {
		if p.NSPID == pid && p.PIDNamespace == f.writer.PIDNamespace && verdict.MayHold(p, f.writer, true) {
			return p, true
		}
	}
	return bootid.Process{}, false
}

// isRelated reports whether p is of the family.
func (f *family) isRelated(p bootid.Process) bool {
	s := f.store
	return descends(s.sys, p, f.writer) || f.script.Known() && (p.Same(f.script) || descends(s.sys, p, f.script)) ||
		slices.ContainsFunc(s.processes.ancestors(f.writer), p.Same) || f.opener != nil && f.wasRelated(p)
}

// wasRelated reports whether p was related to the writer when it opened the file, by way of its parent.
func (f *family) wasRelated(p bootid.Process) bool {
	s := f.store
	if f.opener.isRelative(s, p) {
		return true
	}
	parent, err := s.sys.Process(f.opener.parent)
	return err == nil && f.opener.isRelative(s, parent) && slices.ContainsFunc(s.sys.Ancestors(parent), p.Same)
}

func (s *Store) startedAfter(p bootid.Process, written time.Time) bool {
	return s.sys.StartedAt(p).After(written.Add(verdict.StartTolerance))
}

// namesOther reports whether host is the name of another machine. An address, or a name that any
// machine has for itself, is no name.
func (s *Store) namesOther(host string) bool {
	_, err := netip.ParseAddr(host)
	if err == nil || host == "" || host == "localhost" || strings.ContainsAny(host, ":/ ") {
		return false
	}
	own := s.sys.Hostname()
	short, _, _ := strings.Cut(host, ".")
	ownShort, _, _ := strings.Cut(own, ".")
	return own != "" && !strings.EqualFold(host, own) && !strings.EqualFold(host, ownShort) &&
		!strings.EqualFold(short, own)
}
