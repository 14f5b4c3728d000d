package verdict

import (
	"fmt"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
)

// Party is a process that a lock depends on. The zero Party is an unknown process.
type Party struct {
	bootid.Process
	Runs bool
	// Exit is how it ended, if it does not run and that is known.
	Exit bootid.Exit
	// Reuser is the process that has its pid now, if it was not seen to end; otherwise zero.
	Reuser bootid.Process
}

// Facts are what is known of a lock that has a record.
type Facts struct {
	Kind Kind
	// Rule is how Holder was found.
	Rule Rule
	// Keep reports that its pattern has it outlive its holder.
	Keep bool
	// Left reports that its holder was seen to end with status 0.
	Left bool

	// Furnished reports that the maker of a directory has itself put something into it that names no process.
	Furnished bool

	// Boot is the current boot. BootID and MachineID are those under which the lock was made, empty if they are not
	// known.
	Boot              bootid.Boot
	BootID, MachineID string
	// OutOfSight reports that a latchfs recorded the lock in a pid namespace whose pids mean nothing here.
	OutOfSight bool

	Maker, Holder Party
	// Ancestors are those of the maker that can come to hold the lock, the nearest first. Only kinds that are made
	// by commands have them.
	Ancestors []Party
	// GroupRuns reports whether a process of the maker's process group or session runs. It is called
	// only when it matters.
	GroupRuns func() bool

	// Open reports that the descriptor the lock was made with is open.
	Open bool
	// ClosedByEnd reports that the descriptor was closed while the maker was ending; ClosedAtEnd, that it was
	// closed so shortly before the end that the end may have closed it; ClosedBefore, that it was closed earlier.
	// If none is set, it is not known when the descriptor was closed.
	ClosedByEnd, ClosedAtEnd, ClosedBefore bool
	// Outlived reports that the descriptor was closed later than the end: another process had it.
	Outlived bool

	// Gone reports that the lock's file is gone. Unreadable is why the file cannot be read, or nil.
	Gone       bool
	Unreadable error
	// Claim is what the file says of a process of the maker's family.
	Claim payload.Claim
	// Named is the process that Claim is about, or that an unidentified maker's text names.
	Named Party
	// Hidden is why a process that the file names cannot be looked at; nil if there is no such process.
	Hidden error
	// Found is what the file says by its form alone, for a lock of KindFound.
	Found FoundFacts

	// Made is when the lock was acquired, Touched when its file was last written or its times set.
	Made, Touched time.Time
	Aging
}

// Aging is at which age locks become stale. A limit of 0 is never.
type Aging struct {
	Now time.Time
	// StaleAfter is the age at which an unknown lock becomes stale; MaxHold, the age at which an exclusive lock
	// becomes stale though its holder lives.
	StaleAfter, MaxHold time.Duration
}

// Judge decides on a lock that has a record.
func Judge(f Facts) Decision {
	for _, party := range []*Party{&f.Holder, &f.Maker} {
		if f.Left && party.Exit == bootid.ExitUnknown && party.Process == f.Holder.Process {
			party.Exit = bootid.ExitSuccess
		}
	}
	d := judge(&f)
	d.Left = !f.Holder.Runs && f.Holder.Exit == bootid.ExitSuccess && !f.Open && !f.Outlived
	if held := f.Now.Sub(f.Made); d.Verdict == Live && f.MaxHold > 0 && held > f.MaxHold && f.Kind != KindPIDFile {
		d.Judgment = stale(TooOld, d.Rule, "%s, and has held it for %v; the limit is %v",
			d.Evidence, held.Round(time.Second), f.MaxHold)
	}
	return d
}

func judge(f *Facts) Decision {
	holder := f.Holder.Process
	switch {
	case f.Boot.OnOtherMachine(f.MachineID):
		return f.aged(RuleNobody, "", "made on another machine (machine id %s)", f.MachineID).of(holder)
	case f.Boot.Differs(f.BootID):
		return judgePastBoot(f).of(holder)
	case f.OutOfSight:
		return f.aged(RuleNobody, "", "recorded by a latchfs in another pid namespace").of(holder)
	case f.Holder.Runs:
		return live(f.Rule, "process %v runs", holder).of(holder)
	case f.Gone:
		return settled(f.Rule, "its file is gone").of(holder)
	case f.Unreadable != nil:
		return f.aged(f.Rule, "", "its file cannot be read: %v", f.Unreadable).of(holder)
	case f.Maker.Known() && f.Claim.Class == payload.Naming && f.Named.Runs:
		return live(RuleNamed, "process %v, named by the payload, runs", f.Named.Process).of(f.Named.Process)
	case f.Hidden != nil:
		return f.aged(RuleNamed, "", "the process its payload names cannot be looked at: %v", f.Hidden).of(holder)
	case f.Kind == KindFound && f.Found.Claim.PID != holder.NSPID:
		return JudgeFound(f.Found) // it was written again
	case f.Kind == KindFound:
		return f.ended(f.Holder).of(holder)
	case f.Kind == KindPIDFile && f.Claim.Class != payload.Naming:
		return settled(f.Rule, "it names nobody any more").of(holder)
	case f.Kind == KindPIDFile:
		return f.ended(f.Holder).of(holder)
	case f.Maker.Runs:
		return live(RuleCreator, "its creator %v runs", f.Maker.Process).of(f.Maker.Process)
	case f.Open && f.Maker.Known():
		return live(RuleDescriptor, "its creator %v has ended, the descriptor it was made with is open",
			f.Maker.Process).of(holder)
	case !f.Maker.Known():
		if f.Claim.Class == payload.Data && !f.Open {
			return settled(RuleNobody, "it holds data").of(holder)
		}
		return f.aged(RuleNobody, "", "its creator could not be identified").of(holder)
	case f.Keep:
		return f.aged(f.Rule, "", "its creator %v has ended, and its pattern keeps it", f.Maker.Process).of(holder)
	}
	return judgeOrphan(f)
}

// judgeOrphan decides on a lock of this boot whose maker has ended and whose payload names no running process.
func judgeOrphan(f *Facts) Decision {
	holder, maker := f.Holder.Process, f.Maker.Process
	named := f.Rule == RuleNamed || f.Claim.Class == payload.Naming
	switch {
	case f.Claim.Class == payload.Data:
		if f.Kind == KindCreate && f.ClosedByEnd && f.Maker.Exit == bootid.ExitSignal {
			return stale(DeadPID, f.Rule, "its creator %v was killed with the data file open", maker).of(holder)
		}
		return settled(f.Rule, "it holds data and its creator %v has ended", maker).of(holder)
	case f.Claim.Weak:
		if f.Holder.Exit == bootid.ExitSignal {
			return f.gone(f.Holder).of(holder)
		}
		return settled(f.Rule, "it only mentions the number of process %v, which was not killed", holder).of(holder)
	case named:
		return f.ended(f.Holder).of(holder)
	case f.Maker.Exit == bootid.ExitSignal, f.Maker.Exit == bootid.ExitFailure:
		return f.gone(f.Maker).of(holder)
	case f.Furnished:
		// It is a copy, or a complete lock: no script uses it, unlike a directory that mkdir(1) made.
		return settled(f.Rule, "its creator %v has put something into it that names no process, and has ended",
			maker).of(holder)
	case f.Kind.ByCommand():
		return judgeAncestors(f)
	case f.Maker.Exit == bootid.ExitUnknown && f.ClosedAtEnd:
		return f.gone(f.Maker).of(holder)
	case f.Maker.Exit == bootid.ExitUnknown && !f.ClosedBefore:
		return f.aged(f.Rule, "", "it is empty, and how its creator %v ended is not known", maker).of(holder)
	}
	return settled(f.Rule, "it is empty and its creator %v has exited", maker).of(holder)
}

// judgeAncestors finds the ancestor that stands in for a maker that has exited: the script that ran mkdir(1). If
// that ancestor has exited too, as a subshell does, the lock passes on to the next one; if it was killed, the lock
// does not.
func judgeAncestors(f *Facts) Decision {
	maker, last := f.Maker.Process, f.Maker
	for _, a := range f.Ancestors {
		if a.Runs {
			return live(RuleAncestor, "its creator %v has ended, its ancestor %v runs", maker, a.Process).of(a.Process)
		}
		if a.Exit == bootid.ExitSignal {
			return stale(DeadPID, RuleAncestor, "process %v, ancestor of its creator %v, was killed",
				a.Process, maker).of(a.Process)
		}
		last = a
	}
	if last.Exit == bootid.ExitFailure && !f.groupRuns() {
		return stale(DeadPID, RuleAncestor, "process %v, ancestor of its creator %v, has failed",
			last.Process, maker).of(last.Process)
	}
	return f.aged(RuleNobody, "", "its creator %v has ended, and no ancestor that could hold it runs",
		maker).of(f.Holder.Process)
}

// judgePastBoot decides on a lock of another boot. Data settles when it is closed, so data that was
// made with O_EXCL and still has a record was open when that boot ended.
func judgePastBoot(f *Facts) Judgment {
	switch {
	case f.Keep:
		return f.aged(f.Rule, "", "made under boot %s, and its pattern keeps it", f.BootID)
	case f.Kind != KindCreate && f.Claim.Class == payload.Data && f.Unreadable == nil:
		return settled(f.Rule, "it holds data and was made under boot %s", f.BootID)
	}
	return stale(BootIDMismatch, f.Rule, "made under boot %s, this is %s", f.BootID, f.Boot.ID)
}

// ended returns the verdict on a lock that names its holder, which does not run. If another process had the
// descriptor of the lock after the holder's end, that process held it, and it is not known how it ended.
func (f *Facts) ended(holder Party) Judgment {
	switch {
	case holder.Exit == bootid.ExitSuccess && !f.Outlived:
		return f.aged(f.Rule, Left, "process %v has ended and left it", holder.Process)
	case f.Keep:
		return f.aged(f.Rule, "", "process %v has ended, and its pattern keeps it", holder.Process)
	}
	return f.gone(holder)
}

// gone returns the verdict on a lock whose holder did not end with status 0.
func (f *Facts) gone(holder Party) Judgment {
	if holder.Reuser.Known() {
		return stale(RecycledPID, f.Rule, "process %v has ended, %v has its pid", holder.Process, holder.Reuser)
	}
	return stale(DeadPID, f.Rule, "process %v %s", holder.Process, howEnded(holder.Exit))
}

// howEnded describes how a process ended.
func howEnded(exit bootid.Exit) string {
	switch exit {
	case bootid.ExitSignal:
		return "was killed"
	case bootid.ExitFailure:
		return "has failed"
	}
	return "has ended"
}

// aged returns the verdict on a lock of which nothing is proven: unknown, with or without a reason, until it is too
// old. A lock that names a running process, or whose maker's group still has processes, does not get too old.
func (f *Facts) aged(rule Rule, why Reason, format string, args ...any) Judgment {
	return f.Aging.aged(f.Touched, func() bool { return f.Named.Runs || f.groupRuns() }, rule, why, format, args...)
}

func (f *Facts) groupRuns() bool { return f.GroupRuns != nil && f.GroupRuns() }

func (a Aging) aged(since time.Time, needed func() bool, rule Rule, why Reason, format string, args ...any) Judgment {
	age := a.Now.Sub(since)
	if a.StaleAfter > 0 && age > a.StaleAfter && !needed() {
		args = append(args, age.Round(time.Second), a.StaleAfter)
		return stale(TooOld, rule, format+"; %v old, the limit is %v", args...)
	}
	return Judgment{Verdict: Unknown, Reason: why, Rule: rule, Evidence: fmt.Sprintf(format, args...), Since: since}
}
