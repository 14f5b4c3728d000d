package lockstore

import (
	"errors"
	"io/fs"
	"strings"
	"time"

	"latchfs/bootid"
)

const (
	// startTolerance is how much later than the payload was written a process may
	// seem to have started and still be the one named: two clock ticks, since start
	// times and file times are both cut to one.
	startTolerance = 20 * time.Millisecond
	// bootTolerance is how exactly the boot time is known.
	bootTolerance = 2 * time.Second
	// openAtDeath is how long before its creator's end a descriptor may have been
	// closed and still count as closed by that end, where the kernel does not tell more.
	openAtDeath = time.Second
)

// decision is a judgment and the holder it was made for.
type decision struct {
	Judgment
	holder bootid.Process
}

// state is what a decision on a record rests on, read at one moment.
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
	if r.lineage != nil {
		l.ancestors = r.lineage.watched
	}
	if r.closedAfter != 0 {
		l.closedAt = s.began.Add(r.closedAfter)
	}
	return l
}

// judge decides on a recorded lock. It changes nothing; see Section.settle for what
// follows from it.
func (s *Store) judge(r *record) decision {
	l := s.state(r)
	d := s.judgeHolder(l)
	if mutated("steals") {
		d.Verdict = Stale
	}
	if held := s.now().Sub(l.Made); d.Verdict == Live && s.maxHold > 0 && held > s.maxHold && l.Kind != KindPIDFile {
		d.Judgment = stale(TooOld, d.Rule, "%s, and has held it for %v; the limit is %v", d.Evidence, held.Round(time.Second), s.maxHold)
	}
	return d
}

func (s *Store) judgeHolder(l state) decision {
	switch {
	case s.boot.OnOtherMachine(l.MachineID):
		return decision{s.aged(l.Made, RuleNobody, "made on another machine (machine id %s)", l.MachineID), l.Holder}
	case s.boot.Differs(l.BootID):
		return decision{s.judgePastBoot(l.Lock), l.Holder}
	case s.outOfSight(l.Namespace):
		return decision{s.aged(l.Made, RuleNobody, "recorded by a latchfs in another pid namespace (%d)", l.Namespace.Inode), l.Holder}
	}
	if s.runs(l.holder) {
		return decision{Judgment{Live, "", l.Rule, l.holder.runs}, l.Holder}
	}

	c, err := s.inspect(l.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return decision{settled(l.Rule, "its file is gone"), l.Holder}
	} else if err != nil {
		return decision{s.aged(l.Made, l.Rule, "its file cannot be read: %v", err), l.Holder}
	}
	// A creator that names itself and has ended need not be looked for.
	if l.creator == nil || c.PID != l.Creator.NSPID || s.runs(l.creator) {
		switch named, err := s.named(l.Creator, c); {
		case err == nil:
			return decision{live(RuleNamed, "process %v, named by the payload, runs", named), named}
		case errors.Is(err, bootid.ErrHidden):
			return decision{s.aged(l.Made, RuleNamed, "the process its payload names cannot be looked at: %v", err), l.Holder}
		}
	}
	switch {
	case l.Kind == KindFound:
		return s.judgeFound(c)
	case l.Kind == KindPIDFile && c.Class != Naming:
		return decision{settled(l.Rule, "it names nobody any more"), l.Holder}
	case l.Kind == KindPIDFile:
		return decision{s.gone(l), l.Holder}
	case l.creator == nil:
		if c.Class == Data && !l.open {
			return decision{settled(RuleNobody, "it holds data"), l.Holder}
		}
		return decision{s.aged(l.Made, RuleNobody, "its creator could not be identified"), l.Holder}
	case s.runs(l.creator):
		return decision{live(RuleCreator, "its creator %v runs", l.creator.process), l.Creator}
	case l.open:
		return decision{live(RuleDescriptor, "its creator %v has ended, the descriptor it was made with is open", l.creator.process), l.Holder}
	}
	return s.judgeOrphan(l, c)
}

// judgeOrphan decides on a lock of this boot whose creator has ended and whose payload
// names nobody that runs.
func (s *Store) judgeOrphan(l state, c content) decision {
	named := l.Rule == RuleNamed || c.Class == Naming && c.PID == l.Creator.NSPID
	switch {
	case c.Class == Data || c.Weak && !named:
		// Only a signal: that a program closed the file and then ended looks like one that
		// ended with the file open.
		if l.Kind == KindCreate && l.closedByEnd && s.exitOf(l.creator, l) == bootid.ExitSignal {
			return decision{stale(DeadPID, l.Rule, "its creator %v was killed with the data file open", l.Creator), l.Holder}
		}
		return decision{settled(l.Rule, "it holds data and its creator %v has ended", l.Creator), l.Holder}
	case l.Kind.inherited() && !named && s.exitOf(l.creator, l) != bootid.ExitSignal:
		return s.judgeAncestors(l)
	case c.Class == Empty && !l.Kind.inherited() && !s.endedWithIt(l):
		return decision{settled(l.Rule, "it is empty and its creator %v has ended of itself", l.Creator), l.Holder}
	}
	return decision{s.gone(l), l.Holder}
}

// judgeAncestors finds who stands in for a creator that has ended of itself: the script
// that ran mkdir(1). One that ended of itself, as a subshell does, passes the lock on in
// turn; one that was killed does not.
func (s *Store) judgeAncestors(l state) decision {
	for _, a := range l.ancestors {
		if s.runs(a) {
			return decision{live(RuleAncestor, "its creator %v has ended, its ancestor %v runs", l.Creator, a.process), a.process}
		}
		if s.exitOf(a, l) == bootid.ExitSignal {
			return decision{stale(DeadPID, RuleAncestor, "process %v, ancestor of its creator %v, was killed", a.process, l.Creator), a.process}
		}
	}
	return decision{s.aged(l.Made, RuleNobody, "its creator %v has ended, and no ancestor that could hold it runs", l.Creator), l.Holder}
}

// endedWithIt says that the creator of an empty lock was ended rather than having
// ended: by a signal or, where the kernel does not tell, with the descriptor open.
func (s *Store) endedWithIt(l state) bool {
	exit := s.exitOf(l.creator, l)
	if exit == bootid.ExitUnknown {
		endedAt, _ := s.processes.hasEnded(l.creator)
		return !l.closedAt.IsZero() && endedAt.Sub(l.closedAt) < openAtDeath
	}
	return exit == bootid.ExitSignal
}

// exitOf says how a process of l that has ended did. What ended with its pid namespace was
// killed.
func (s *Store) exitOf(w *watched, l state) bootid.Exit {
	exit := bootid.ExitUnknown
	if w.watch != nil {
		exit = w.watch.Exit()
	}
	if exit == bootid.ExitUnknown && (s.otherNamespace(l.Lock) || s.sys.NamespaceEnded(w.process)) {
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
	return !ended || mutated("deaf")
}

// outOfSight says that pids of a namespace reach further than those of our own or beside it, so that
// nothing can be said of them.
func (s *Store) outOfSight(namespace bootid.Namespace) bool {
	return namespace.Inode != 0 && namespace.Initial() != s.sys.Namespace().Initial()
}

// otherNamespace says that l was recorded in the pid namespace of a former container: it has
// ended, or else that latchfs would still have the state directory.
func (s *Store) otherNamespace(l Lock) bool {
	here := s.sys.Namespace()
	return l.Namespace.Inode != 0 && l.Namespace != here && !here.Initial()
}

// gone is the verdict on a holder of this boot that does not run any more. Of one that was seen to end it does not matter
// who has its pid by now.
func (s *Store) gone(l state) Judgment {
	if l.holder != nil && l.holder.watch != nil {
		return stale(DeadPID, l.Rule, "process %v has ended", l.Holder)
	}
	if now, err := s.sys.Process(l.Holder.PID); err == nil && now.StartTime != l.Holder.StartTime {
		return stale(RecycledPID, l.Rule, "process %v has ended, %v has its pid", l.Holder, now)
	}
	return stale(DeadPID, l.Rule, "process %v has ended", l.Holder)
}

// judgePastBoot decides on a lock of another boot. Data that was made with O_EXCL settles
// when it is closed, so what is left was open when that boot ended.
func (s *Store) judgePastBoot(l Lock) Judgment {
	if l.Kind != KindCreate {
		if c, err := s.inspect(l.Name); err == nil && c.Class == Data {
			return settled(l.Rule, "it holds data and was made under boot %s", l.BootID)
		}
	}
	return stale(BootIDMismatch, l.Rule, "made under boot %s, this is %s", l.BootID, s.boot.ID)
}

// named finds the process that the payload written by writer names, if it is of the
// writer's user or family and started before the payload was written. Process 1 is no
// holder unless it writes itself. Its errors are bootid's; ErrNoProcess also if the payload
// names nobody.
func (s *Store) named(writer bootid.Process, c content) (bootid.Process, error) {
	if c.Class != Naming || !writer.Known() || s.boot.Differs(c.BootID) {
		return bootid.Process{}, bootid.ErrNoProcess
	}
	p, err := s.sys.InNamespace(c.PID, writer)
	if err != nil {
		return bootid.Process{}, err
	}
	other := !p.Same(writer)
	if other && (p.PID == writer.PID || p.PID == 1) || s.startedAfter(p, c.written) || p.UID != writer.UID && !related(s.sys, p, writer) {
		return bootid.Process{}, bootid.ErrNoProcess
	}
	return p, nil
}

func (s *Store) startedAfter(p bootid.Process, written time.Time) bool {
	return s.sys.StartedAt(p).After(written.Add(startTolerance))
}

// aged is the verdict on what cannot be proven: unknown until it is too old.
func (s *Store) aged(since time.Time, rule Rule, format string, args ...any) Judgment {
	age := s.now().Sub(since)
	if s.staleAfter > 0 && age > s.staleAfter {
		return stale(TooOld, rule, format+"; %v old, the limit is %v", append(args, age.Round(time.Second), s.staleAfter)...)
	}
	return unknown(rule, format, args...)
}

// judgeFound decides on a file at a lock name that has no record: left behind by
// programs that ran before latchfs, or made beneath the mount. Settled means that it
// is none of the store's business.
func (s *Store) judgeFound(c content) decision {
	if c.Class != Naming {
		return decision{Judgment: settled(RuleNobody, "it is %v and has no record", c.Class)}
	}
	undecided := func(format string, args ...any) decision {
		return decision{Judgment: s.aged(c.Changed, RuleNamed, format, args...)}
	}
	if !s.files.Local() {
		return undecided("it has no record, and other machines write here")
	}
	if c.Host != "" && !s.isHere(c.Host) {
		return undecided("its payload names a process of machine %q, this is %q", c.Host, s.sys.Hostname())
	}
	if s.boot.Differs(c.BootID) {
		return decision{Judgment: stale(BootIDMismatch, RuleNamed, "its payload names boot %s, this is %s", c.BootID, s.boot.ID)}
	}
	if c.BootID == "" && !s.boot.Time.IsZero() && c.Changed.Before(s.boot.Time.Add(-bootTolerance)) {
		return decision{Judgment: stale(BeforeBoot, RuleNamed, "last changed %v, before this boot at %v",
			c.Changed.Format(time.RFC3339), s.boot.Time.Format(time.RFC3339))}
	}
	if c.PID == 0 {
		j := s.aged(c.Changed, RuleNobody, "it has no record and names no process")
		if j.Verdict == Stale {
			j.Reason = MissingPID
			if c.BadCreatedAt {
				j.Reason = InvalidCreatedAt
			}
		}
		return decision{Judgment: j}
	}
	p, err := s.processFor(c.PID, c.written)
	var judgment Judgment
	switch {
	case errors.Is(err, bootid.ErrNoProcess):
		judgment = stale(DeadPID, RuleNamed, "its payload names pid %d, no such process", c.PID)
	case err != nil:
		return undecided("pid %d cannot be looked up: %v", c.PID, err)
	case c.StartTime != 0 && c.StartTime != p.StartTime:
		judgment = stale(RecycledPID, RuleNamed, "its payload names pid %d started at tick %d, %v has that pid", c.PID, c.StartTime, p)
	case s.startedAfter(p, c.written):
		judgment = stale(RecycledPID, RuleNamed, "%v started after the payload naming its pid was written", p)
	case p.UID != c.owner && c.owner != 0:
		return undecided("%v is of user %d, the file of user %d", p, p.UID, c.owner)
	default:
		return decision{live(RuleNamed, "process %v, named by the payload, runs", p), p}
	}
	if s.sys.InOtherNamespace(c.PID, c.written) {
		return undecided("pid %d may run in another pid namespace, and who wrote it is not known", c.PID)
	}
	return decision{Judgment: judgment}
}

// isHere says that host is a name of this machine, with or without its domain.
func (s *Store) isHere(host string) bool {
	own := s.sys.Hostname()
	short, _, _ := strings.Cut(host, ".")
	ownShort, _, _ := strings.Cut(own, ".")
	return own == "" || host == own || host == ownShort || short == own
}
