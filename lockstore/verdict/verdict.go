package verdict

import (
	"fmt"
	"time"

	"latchfs/bootid"
)

// Verdict is what is known of a lock's holder.
type Verdict int

const (
	// Unknown: there is no proof either way. Only age, release or an operator ends it.
	Unknown Verdict = iota
	// Live: the very process is running.
	Live
	// Stale: the holder is proven gone, or nothing is proven and the lock is too old. The Reason tells the two
	// apart.
	Stale
	// Settled: the file is no lock. Its record is removed, the file stays.
	Settled
)

func (v Verdict) String() string {
	return [...]string{"unknown", "live", "stale", "settled"}[v]
}

// Reason is why a lock is stale, or why nothing can be proven of it.
type Reason string

// The reasons. A reason that is added here is added to reasons below, and to docs/semantics.md.
const (
	BootIDMismatch   Reason = "boot-id-mismatch"
	DeadPID          Reason = "dead-pid"
	RecycledPID      Reason = "recycled-pid"
	BeforeBoot       Reason = "before-boot"
	MissingPID       Reason = "missing-pid"
	InvalidCreatedAt Reason = "invalid-createdAt"
	TooOld           Reason = "too-old"
	Left             Reason = "left"
)

// reasons has every reason, the verdict it goes with and its meaning, as the rest of a sentence about a lock.
var reasons = []struct {
	reason  Reason
	verdict Verdict
	means   string
}{
	{BootIDMismatch, Stale, "it was made before the machine was last started"},
	{DeadPID, Stale, "its holder has ended"},
	{RecycledPID, Stale, "its holder has ended, and another process has got the same number"},
	{BeforeBoot, Stale, "it was last changed before the machine was last started"},
	{MissingPID, Stale, "it names no process, and is too old"},
	{InvalidCreatedAt, Stale, "it names no process, the time it gives is none, and it is too old"},
	{TooOld, Stale, "nothing can be proven of its holder, and it is too old"},
	{Left, Unknown, "its holder has ended with status 0 and left it there"},
}

// Reasons returns the reasons that go with a verdict.
func Reasons(of Verdict) (all []Reason) {
	for _, r := range reasons {
		if r.verdict == of {
			all = append(all, r.reason)
		}
	}
	return all
}

// Means returns what the reason means, as the rest of a sentence about a lock; "" for none.
func (r Reason) Means() string {
	for _, known := range reasons {
		if known.reason == r {
			return known.means
		}
	}
	return ""
}

// isProof reports whether a lock with that reason is stale whatever its age.
func (r Reason) isProof() bool {
	return r == BootIDMismatch || r == DeadPID || r == RecycledPID || r == BeforeBoot
}

// Rule is how the holder of a lock was found.
type Rule string

// The rules, in the order in which they apply.
const (
	RuleNamed      Rule = "named"      // the process its payload names
	RuleCreator    Rule = "creator"    // the process that made it
	RuleDescriptor Rule = "descriptor" // a process that inherited the descriptor it was made with
	RuleAncestor   Rule = "ancestor"   // the nearest living ancestor of the process that made it
	RuleNobody     Rule = "nobody"     // no process could be identified
)

// Rules has every Rule. A rule's index is its number in memory only.
var Rules = [...]Rule{RuleNamed, RuleCreator, RuleDescriptor, RuleAncestor, RuleNobody}

// Kind is how a lock came to be at its name.
type Kind string

// The kinds. All but KindPIDFile are exclusive: the existence of the name is the lock.
const (
	KindCreate  Kind = "create" // open(2) with O_EXCL
	KindMkdir   Kind = "mkdir"
	KindSymlink Kind = "symlink"
	KindLink    Kind = "link"
	KindRename  Kind = "rename" // onto a free name
	// KindFound: the file was there when latchfs first saw it, so it is not known how it was made.
	KindFound Kind = "found"
	// KindPIDFile: an ordinary file that names its writer or a process of its writer's family.
	KindPIDFile Kind = "pid-file"
)

// Kinds has every Kind. A kind's index is its number in memory only.
var Kinds = [...]Kind{KindCreate, KindMkdir, KindSymlink, KindLink, KindRename, KindFound, KindPIDFile}

// ByCommand reports whether a lock of that kind is often made by a command that ends at once, for an ancestor.
func (k Kind) ByCommand() bool { return k == KindMkdir || k == KindSymlink || k == KindLink }

// Judgment is a verdict and what it rests on.
type Judgment struct {
	Verdict  Verdict
	Reason   Reason // why it is stale, or unknown
	Rule     Rule
	Evidence string // one sentence for people
	// Since is the time from which the age of an unknown lock counts.
	Since time.Time
}

// of returns the decision with that judgment for a holder.
func (j Judgment) of(holder bootid.Process) Decision { return Decision{Judgment: j, Holder: holder} }

// Decision is a judgment and the holder it was made for, the zero Process if there is none.
type Decision struct {
	Judgment
	Holder bootid.Process
	// Left reports that the recorded holder has ended with status 0. The caller records that, as the kernel does
	// not remember for ever how a process ended.
	Left bool
}

// Released returns the decision that a lock of that holder ends for another reason than being stale.
func Released(rule Rule, holder bootid.Process, evidence string) Decision {
	return Decision{Judgment: stale("", rule, "%s", evidence), Holder: holder}
}

func stale(reason Reason, rule Rule, format string, args ...any) Judgment {
	return Judgment{Verdict: Stale, Reason: reason, Rule: rule, Evidence: fmt.Sprintf(format, args...)}
}

func live(rule Rule, format string, args ...any) Judgment {
	return Judgment{Verdict: Live, Rule: rule, Evidence: fmt.Sprintf(format, args...)}
}

func settled(rule Rule, format string, args ...any) Judgment {
	return Judgment{Verdict: Settled, Rule: rule, Evidence: fmt.Sprintf(format, args...)}
}

// MayHold reports whether a process can be the holder of a lock whose payload names it. Writer is
// the process that wrote the payload, and family reports whether the named process is of its family.
func MayHold(named, writer bootid.Process, family bool) bool {
	switch {
	case named.Same(writer):
		return true
	case !family || named.Manager:
		return false
	}
	return named.UID == writer.UID || writer.UID == 0
}
