package lockstore

import (
	"errors"
	"io/fs"
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
	// closed and still count as closed by that end.
	openAtDeath = time.Second
)

// decision is a judgment and the holder it was made for.
type decision struct {
	Judgment
	holder bootid.Process
}

// judge decides on a recorded lock. It changes nothing; see Section.settle for what
// follows from it.
func (s *Store) judge(r *record) decision {
	s.mu.Lock()
	l, holder, creator, open := r.Lock, r.holder, r.creator, r.open
	closedAt := r.closedAt
	s.mu.Unlock()

	switch {
	case s.boot.OnOtherMachine(l.MachineID):
		return decision{s.aged(l.Made, RuleNobody, "made on another machine (machine id %s)", l.MachineID), l.Holder}
	case s.boot.Differs(l.BootID):
		return decision{s.judgePastBoot(l), l.Holder}
	}
	if holder != nil {
		if _, ended := s.processes.hasEnded(holder); !ended {
			return decision{live(l.Rule, "process %v runs", holder.process), l.Holder}
		}
	}

	file, payload, err := s.inspect(l.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return decision{settled(l.Rule, "its file is gone"), l.Holder}
	} else if err != nil {
		return decision{s.aged(l.Made, l.Rule, "its file cannot be read: %v", err), l.Holder}
	}
	if named, ok := s.named(l.Creator, payload, file.Written); ok {
		return decision{live(RuleNamed, "process %v, named by the payload, runs", named), named}
	}
	if creator == nil {
		switch {
		case holder != nil: // taken over by judgeFound; the file is as without a record now
			return s.judgeFound(file, payload)
		case payload.Class == Data && !open:
			return decision{settled(RuleNobody, "it holds data"), l.Holder}
		}
		return decision{s.aged(l.Made, RuleNobody, "its creator could not be identified"), l.Holder}
	}
	endedAt, ended := s.processes.hasEnded(creator)
	switch {
	case !ended:
		return decision{live(RuleCreator, "its creator %v runs", creator.process), l.Creator}
	case open:
		return decision{live(RuleDescriptor, "its creator %v has ended, the descriptor it was made with is open", creator.process), l.Holder}
	}
	switch payload.Class {
	case Data:
		return decision{settled(l.Rule, "it holds data and its creator %v has ended", creator.process), l.Holder}
	case Empty:
		if !endedWithIt(creator, closedAt, endedAt) {
			return decision{settled(l.Rule, "it is empty and its creator %v has ended of itself", creator.process), l.Holder}
		}
	}
	return decision{s.gone(l), l.Holder}
}

// endedWithIt says that the creator of an empty lock was ended rather than having
// ended: by a signal or, where the kernel does not tell, with the descriptor open.
func endedWithIt(creator *watched, closedAt, endedAt time.Time) bool {
	exit := bootid.ExitUnknown
	if creator.watch != nil {
		exit = creator.watch.Exit()
	}
	if exit == bootid.ExitUnknown {
		return !closedAt.IsZero() && endedAt.Sub(closedAt) < openAtDeath
	}
	return exit == bootid.ExitSignal
}

// gone is the verdict on a holder of this boot that does not run any more.
func (s *Store) gone(l Lock) Judgment {
	if now, err := s.sys.Process(l.Holder.PID); err == nil && now.StartTime != l.Holder.StartTime {
		return stale(RecycledPID, l.Rule, "process %v has ended, %v has its pid", l.Holder, now)
	}
	return stale(DeadPID, l.Rule, "process %v has ended", l.Holder)
}

func (s *Store) judgePastBoot(l Lock) Judgment {
	if _, payload, err := s.inspect(l.Name); err == nil && payload.Class == Data {
		return settled(l.Rule, "it holds data and was made under boot %s", l.BootID)
	}
	return stale(BootIDMismatch, l.Rule, "made under boot %s, this is %s", l.BootID, s.boot.ID)
}

// named finds the process that the payload of a lock made by creator names, if it is
// of the creator's user and started before the payload was written.
func (s *Store) named(creator bootid.Process, payload Payload, written time.Time) (bootid.Process, bool) {
	if payload.Class != Naming || !creator.Known() || s.boot.Differs(payload.BootID) {
		return bootid.Process{}, false
	}
	p, err := s.sys.InNamespace(payload.PID, creator)
	recycled := p.PID == creator.PID && !p.Same(creator)
	if err != nil || recycled || p.UID != creator.UID || s.startedAfter(p, written) {
		return bootid.Process{}, false
	}
	return p, true
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
func (s *Store) judgeFound(file File, payload Payload) decision {
	if payload.Class != Naming {
		return decision{Judgment: settled(RuleNobody, "it is %v and has no record", payload.Class)}
	}
	if !s.files.Local() {
		return decision{Judgment: s.aged(file.Changed, RuleNobody, "it has no record, and other machines write here")}
	}
	if s.boot.Differs(payload.BootID) {
		return decision{Judgment: stale(BootIDMismatch, RuleNamed, "its payload names boot %s, this is %s", payload.BootID, s.boot.ID)}
	}
	if payload.BootID == "" && !s.boot.Time.IsZero() && file.Changed.Before(s.boot.Time.Add(-bootTolerance)) {
		return decision{Judgment: stale(BeforeBoot, RuleNamed, "last changed %v, before this boot at %v",
			file.Changed.Format(time.RFC3339), s.boot.Time.Format(time.RFC3339))}
	}
	if payload.PID == 0 {
		j := s.aged(file.Changed, RuleNobody, "it has no record and names no process")
		if j.Verdict == Stale {
			j.Reason = MissingPID
		}
		return decision{Judgment: j}
	}
	p, err := s.sys.Process(payload.PID)
	switch {
	case errors.Is(err, bootid.ErrNoProcess) && s.sys.InOtherNamespace(payload.PID):
		return decision{Judgment: s.aged(file.Changed, RuleNamed, "pid %d runs in another pid namespace, and who wrote it is not known", payload.PID)}
	case errors.Is(err, bootid.ErrNoProcess):
		return decision{Judgment: stale(DeadPID, RuleNamed, "its payload names pid %d, no such process", payload.PID)}
	case err != nil:
		return decision{Judgment: s.aged(file.Changed, RuleNamed, "pid %d cannot be looked up: %v", payload.PID, err)}
	case payload.StartTime != 0 && payload.StartTime != p.StartTime:
		return decision{Judgment: stale(RecycledPID, RuleNamed, "its payload names pid %d started at tick %d, %v has that pid", payload.PID, payload.StartTime, p)}
	case s.startedAfter(p, file.Written):
		return decision{Judgment: stale(RecycledPID, RuleNamed, "%v started after the payload naming its pid was written", p)}
	case p.UID != file.UID:
		return decision{Judgment: s.aged(file.Changed, RuleNamed, "%v is of user %d, the file of user %d", p, p.UID, file.UID)}
	}
	return decision{live(RuleNamed, "process %v, named by the payload, runs", p), p}
}

// inspect reads the file at a lock name as far as a decision needs it.
func (s *Store) inspect(name string) (File, Payload, error) {
	file, err := s.files.Stat(name)
	if err != nil {
		return File{}, Payload{}, err
	}
	payload, err := s.read(name, file)
	return file, payload, err
}

func (s *Store) read(name string, file File) (Payload, error) {
	switch {
	case !file.Regular || file.Size > maxPayload:
		return Payload{Class: Data}, nil
	case file.Size == 0:
		return Payload{Class: Empty}, nil
	}
	text, err := s.files.Read(name, maxPayloadRead)
	if err != nil {
		return Payload{}, err
	}
	return ParsePayload(text), nil
}
