package verdict

import (
	"errors"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
)

const (
	// StartTolerance is how much later than a payload was written the named process may seem to have started: two
	// clock ticks, since start times and file times are both rounded down to one.
	StartTolerance = 20 * time.Millisecond
	// bootTolerance is how exactly the boot time is known.
	bootTolerance = 2 * time.Second
)

// FoundFacts are what is known of a file at a lock name that has no record: programs left it that ran before
// latchfs, or it was made beneath the mount.
type FoundFacts struct {
	// Claim is what the file says by its form alone.
	Claim payload.Claim
	// Keep reports that the lock's pattern has it outlive its holder.
	Keep bool
	// Shared reports that other machines can write to the directory.
	Shared bool
	// Hostname is that of this machine; OtherHost reports that Claim names another one.
	Hostname  string
	OtherHost bool
	// Ambiguous reports that Claim has a form that other text often has, and is in a file and not in a symbolic
	// link to nowhere.
	Ambiguous bool
	// Boot is the current boot.
	Boot bootid.Boot
	// Owner is the user that the file belongs to.
	Owner uint32
	// Written is when it was last written, Changed the later of that and its last status change.
	Written, Changed time.Time
	// Process has the pid that Claim names, and was started at Started. NoProcess is the error of looking it up:
	// bootid.ErrNoProcess if there is no process, another one if that cannot be found out.
	Process   bootid.Process
	Started   time.Time
	NoProcess error
	// Elsewhere reports whether the pid may be that of a process in another pid namespace. It is called only when
	// it matters.
	Elsewhere func() bool
	Aging
}

// JudgeFound decides on a file that has no record. Settled means that it is no lock.
func JudgeFound(f FoundFacts) Decision {
	d := judgeFound(f)
	if f.Keep && d.Verdict == Stale && d.Reason.isProof() {
		return f.undecided("%s, and its pattern keeps it", d.Evidence)
	}
	return d
}

func judgeFound(f FoundFacts) Decision {
	c, p := f.Claim, f.Process
	started := func() bool { return f.Started.After(f.Written.Add(StartTolerance)) }
	var j Judgment
	switch {
	case c.Class != payload.Naming:
		return Decision{Judgment: settled(RuleNobody, "it is %v and has no record", c.Class)}
	case f.OtherHost && f.Ambiguous && !f.Shared:
		return Decision{Judgment: settled(RuleNobody, "it has no record, and %q is no name of this machine", c.Host)}
	case f.Shared:
		return f.undecided("it has no record, and other machines write here")
	case f.OtherHost:
		return f.undecided("its payload names a process of machine %q, this is %q", c.Host, f.Hostname)
	case f.Boot.Differs(c.BootID):
		j := stale(BootIDMismatch, RuleNamed, "its payload names boot %s, this is %s", c.BootID, f.Boot.ID)
		return Decision{Judgment: j}
	case c.BootID == "" && !f.Boot.Time.IsZero() && f.Changed.Before(f.Boot.Time.Add(-bootTolerance)):
		return Decision{Judgment: stale(BeforeBoot, RuleNamed, "last changed %v, before this boot at %v",
			f.Changed.Format(time.RFC3339), f.Boot.Time.Format(time.RFC3339))}
	case c.PID == 0:
		return f.namesNobody("it has no record and names no process")
	case errors.Is(f.NoProcess, bootid.ErrNoProcess):
		j = stale(DeadPID, RuleNamed, "its payload names pid %d, no such process", c.PID)
	case f.NoProcess != nil:
		return f.undecided("pid %d cannot be looked up: %v", c.PID, f.NoProcess)
	case started(), c.Contradict(p.StartTime, f.Started):
		j = stale(RecycledPID, RuleNamed, "its payload names pid %d, which %v has got since", c.PID, p)
	case p.Manager:
		// Another user's pid, one of another boot or container, or a number that is no pid at all.
		return Decision{Judgment: settled(RuleNobody, "it has no record, and %v holds no locks", p)}
	case p.UID != f.Owner:
		return f.undecided("%v is of user %d, the file of user %d", p, p.UID, f.Owner)
	default:
		return live(RuleNamed, "process %v, named by the payload, runs", p).of(p)
	}
	if f.Elsewhere() {
		return f.undecided("pid %d may run in another pid namespace, and its writer is not known", c.PID)
	}
	return Decision{Judgment: j}
}

// JudgeEmpty decides on an empty file without a record, in a directory that no program is using: there it is a lock
// that names nobody.
func JudgeEmpty(f FoundFacts) Decision { return f.namesNobody("it is empty") }

// undecided returns the verdict on a file of which nothing can be proven. The file does not get too old while the
// process it may name runs.
func (f FoundFacts) undecided(format string, args ...any) Decision {
	return Decision{Judgment: f.aged(f.Changed, f.Process.Known, RuleNamed, "", format, args...)}
}

// namesNobody returns the verdict on a lock that names no process.
func (f FoundFacts) namesNobody(format string, args ...any) Decision {
	j := f.aged(f.Changed, func() bool { return false }, RuleNobody, "", format, args...)
	if j.Verdict == Stale {
		j.Reason = MissingPID
		if f.Claim.BadCreatedAt {
			j.Reason = InvalidCreatedAt
		}
	}
	return Decision{Judgment: j}
}
