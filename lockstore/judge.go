package lockstore

import (
	"errors"
	"io/fs"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// openAtDeath is how long before its creator's end a descriptor may have been closed to count as closed by that
// end, if the kernel does not say more.
const openAtDeath = time.Second

// heirAfter is how long after its creator's end a descriptor has to be closed to show that another process had it:
// word of the close may arrive a little later than word of the end.
const heirAfter = 10 * releaseGrace

// state is the part of a record that a decision rests on, read at one moment.
type state struct {
	Lock
	holder, creator *watched
	ancestors       []*watched
	open            bool
	closedAt        time.Time
	closedByEnd     bool
}

func (s *Store) state(r *record) state {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := state{Lock: r.lock(s.began), holder: r.holder, creator: r.creator, open: r.open, closedByEnd: r.closedByEnd}
	if r.ancestorSet != nil {
		l.ancestors = r.ancestorSet.watched
	}
	if r.closedAfter != 0 {
		l.closedAt = s.began.Add(r.closedAfter)
	}
	return l
}

// judge decides on a recorded lock. It changes nothing; NameLock.carryOut does what follows.
func (s *Store) judge(r *record) verdict.Decision {
	l := s.state(r)
	if l.holder != nil && s.maxHold == 0 && s.runs(l.holder) {
		j := verdict.Judgment{Verdict: verdict.Live, Rule: l.Rule, Evidence: l.holder.runs}
		return verdict.Decision{Judgment: j, Holder: l.Holder}
	}
	return verdict.Judge(s.facts(&l))
}

// facts gathers what is known of a lock.
func (s *Store) facts(l *state) verdict.Facts {
	f := verdict.Facts{
		Kind: l.Kind, Rule: l.Rule, Keep: s.attributesOf(l.Name).Keep, Left: l.Left, Furnished: l.Furnished,
		Boot: s.boot, BootID: l.BootID, MachineID: l.MachineID, OutOfSight: s.outOfSight(l.Namespace),
		Maker: s.party(l, l.creator, l.Creator), Holder: s.party(l, l.holder, l.Holder),
		GroupRuns: func() bool { return l.Creator.Group != 0 && s.isOfThisBoot(l) && s.sys.GroupRuns(l.Creator) },
		Open:      l.open, ClosedByEnd: l.closedByEnd,
		Made: l.Made, Touched: l.Made, Aging: s.aging(),
	}
	if f.Holder.Runs {
		return f // nothing else matters
	}
	for _, a := range l.ancestors {
		f.Ancestors = append(f.Ancestors, s.party(l, a, a.process))
	}
	if l.creator != nil && !f.Maker.Runs {
		endedAt, _ := s.processes.hasEnded(l.creator)
		f.ClosedAtEnd = !l.closedAt.IsZero() && endedAt.Sub(l.closedAt) < openAtDeath
		f.ClosedBefore = !l.closedAt.IsZero() && !f.ClosedAtEnd
		f.Outlived = l.closedAt.Sub(endedAt) > heirAfter
	}
	c, err := s.inspectOwn(l)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Gone = true
	case err != nil:
		f.Unreadable = err
	default:
		f.Claim, f.Hidden, f.Touched = c.claim, c.hidden, c.Changed
		if s.isOfThisBoot(l) {
			f.Named = s.named(l, c)
		}
		if l.Kind == verdict.KindFound {
			f.Found = s.foundFacts(l.Name, c)
		}
	}
	return f
}

// inspectOwn reads the file of a lock, as the text of its maker's family.
func (s *Store) inspectOwn(l *state) (content, error) {
	c, err := s.inspect(l.Name, s.familyOf(l))
	if err == nil && l.Kind == verdict.KindRename && c.UID != l.Creator.UID {
		// Somebody else's file: that its renamer is named in it makes it nobody's lock.
		c.claim, c.named = otherClaim, bootid.Process{}
	}
	return c, err
}

// isOfThisBoot reports whether the processes of l can be those of this boot, machine and pid namespace.
func (s *Store) isOfThisBoot(l *state) bool {
	return s.isOfHere(&authority.Origin{BootID: l.BootID, MachineID: l.MachineID, Namespace: l.Namespace})
}

// isOfHere reports whether a lock of that origin can have been made under this boot, on this machine, with pids
// that can be looked up here.
func (s *Store) isOfHere(o *authority.Origin) bool {
	return !s.boot.Differs(o.BootID) && !s.boot.OnOtherMachine(o.MachineID) && !s.outOfSight(o.Namespace)
}

// party describes the process p that l depends on. W is nil if p is not watched.
func (s *Store) party(l *state, w *watched, p bootid.Process) verdict.Party {
	party := verdict.Party{Process: p, Runs: s.runs(w)}
	if w == nil || party.Runs {
		return party
	}
	party.Exit = s.exitOf(w, l.Lock)
	if w.watch == nil {
		// If its end was seen, it does not matter which process has its pid now.
		if now, err := s.sys.Process(p.PID); err == nil && now.StartTime != p.StartTime {
			party.Reuser = now
		}
	}
	return party
}

// named describes the process that the file of l names. If the maker is known, the process is one of its family.
func (s *Store) named(l *state, c content) verdict.Party {
	switch {
	case l.holder != nil && c.named.Same(l.Holder):
		return s.party(l, l.holder, c.named)
	case l.creator != nil && c.named.Same(l.Creator):
		return s.party(l, l.creator, c.named)
	case l.Creator.Known() && !c.named.Known(), c.claim.PID == 0:
		return verdict.Party{}
	}
	pid := c.claim.PID
	if c.named.Known() {
		pid = c.named.PID
	}
	p, err := s.sys.Process(pid)
	return verdict.Party{Process: p, Runs: err == nil && (p.Same(c.named) || !c.named.Known() && !p.Manager)}
}

// foundFacts gathers what is known of a file without a record.
func (s *Store) foundFacts(name string, c content) verdict.FoundFacts {
	f := verdict.FoundFacts{
		Ambiguous: c.form.Weak && c.Type == Regular,
		Claim:     c.form, Keep: s.attributesOf(name).Keep, Shared: !s.files.Local(), Hostname: s.sys.Hostname(),
		OtherHost: s.namesOther(c.form.Host), Boot: s.boot,
		Owner: c.owner, Written: c.written, Changed: c.Changed, Aging: s.aging(),
		Elsewhere: func() bool { return s.sys.InOtherNamespace(c.form.PID, c.written) },
	}
	if f.Claim.PID != 0 && !f.OtherHost {
		if f.Process, f.NoProcess = s.processFor(f.Claim.PID, c.written); f.NoProcess == nil {
			f.Started = s.sys.StartedAt(f.Process)
		}
	}
	return f
}

func (s *Store) aging() verdict.Aging {
	return verdict.Aging{Now: s.now(), StaleAfter: s.staleAfter, MaxHold: s.maxHold}
}

// exitOf returns how a process of l has ended. A process that ended with its pid namespace was killed.
func (s *Store) exitOf(w *watched, l Lock) bootid.Exit {
	exit := bootid.ExitUnknown
	if w.watch != nil {
		exit = w.watch.Exit()
	}
	if exit == bootid.ExitUnknown && (s.otherNamespace(l) || s.sys.NamespaceEnded(w.process)) {
		return bootid.ExitSignal
	}
	return exit
}

// runs asks the kernel whether w is a process that has not ended.
func (s *Store) runs(w *watched) bool {
	if w == nil {
		return false
	}
	_, ended := s.processes.hasEnded(w)
	return !ended
}

// outOfSight reports whether the pids of a namespace are outside of our own, so that nothing is known of them.
func (s *Store) outOfSight(namespace bootid.Namespace) bool {
	return namespace.Inode != 0 && namespace.Initial() != s.sys.Namespace().Initial()
}

// otherNamespace reports whether l was recorded in the pid namespace of a former container. That namespace has
// ended: otherwise its latchfs would still have the state directory.
func (s *Store) otherNamespace(l Lock) bool {
	here := s.sys.Namespace()
	return l.Namespace.Inode != 0 && l.Namespace != here && !here.Initial()
}
