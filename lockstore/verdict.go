package lockstore

import "fmt"

// Verdict is what is known of a lock's holder.
type Verdict int

const (
	// Unknown: no proof either way. Only age, release or an operator ends it.
	Unknown Verdict = iota
	// Live: the very process is running.
	Live
	// Stale: the holder is proven gone; Reason says how.
	Stale
	// Settled: the file is no lock any more. Its record goes, it stays.
	Settled
)

func (v Verdict) String() string {
	return [...]string{"unknown", "live", "stale", "settled"}[v]
}

// Reason is why a lock is stale.
type Reason string

// The reasons of section 6 of the design.
const (
	BootIDMismatch   Reason = "boot-id-mismatch"  // made under another boot of this machine
	DeadPID          Reason = "dead-pid"          // the holder has ended
	RecycledPID      Reason = "recycled-pid"      // another process has the holder's number
	BeforeBoot       Reason = "before-boot"       // a file without a record, last changed before this boot
	MissingPID       Reason = "missing-pid"       // unknown and too old, and nobody is named
	InvalidCreatedAt Reason = "invalid-createdAt" // likewise, and the time it gives is none
	TooOld           Reason = "too-old"           // unknown, and older than the limit
)

// Reasons are all of them.
var Reasons = [...]Reason{BootIDMismatch, DeadPID, RecycledPID, BeforeBoot, MissingPID, InvalidCreatedAt, TooOld}

// Rule is how the holder of a lock was found.
type Rule string

// The rules of section 5 of the design.
const (
	RuleNamed      Rule = "named"      // the process its payload names
	RuleCreator    Rule = "creator"    // the process that made it
	RuleDescriptor Rule = "descriptor" // whoever inherited the descriptor it was made with
	RuleAncestor   Rule = "ancestor"   // the nearest living ancestor of the process that made it
	RuleNobody     Rule = "nobody"     // no process could be identified
)

// Judgment is a verdict and what it rests on.
type Judgment struct {
	Verdict  Verdict
	Reason   Reason // of a stale one
	Rule     Rule
	Evidence string // one sentence for people
}

func stale(reason Reason, rule Rule, format string, args ...any) Judgment {
	return Judgment{Stale, reason, rule, fmt.Sprintf(format, args...)}
}

func live(rule Rule, format string, args ...any) Judgment {
	return Judgment{Live, "", rule, fmt.Sprintf(format, args...)}
}

func unknown(rule Rule, format string, args ...any) Judgment {
	return Judgment{Unknown, "", rule, fmt.Sprintf(format, args...)}
}

func settled(rule Rule, format string, args ...any) Judgment {
	return Judgment{Settled, "", rule, fmt.Sprintf(format, args...)}
}
