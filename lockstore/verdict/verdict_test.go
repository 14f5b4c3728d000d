package verdict

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
)

const bootOne, bootTwo = "11111111-2222-4333-8444-555555555555", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"

var (
	now   = time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	maker = bootid.Process{PID: 100, NSPID: 100, StartTime: 1, UID: 1000, Command: "maker"}
	other = bootid.Process{PID: 200, NSPID: 200, StartTime: 1, UID: 1000, Command: "other"}
)

// madeNow is a lock that was made in this boot, a minute ago.
func madeNow(kind Kind) Facts {
	return Facts{
		Kind: kind, Rule: RuleCreator, Boot: bootid.Boot{ID: bootOne, MachineID: "m1", Time: now.Add(-time.Hour)}, BootID: bootOne, MachineID: "m1",
		Maker: Party{Process: maker, Runs: true}, Holder: Party{Process: maker, Runs: true},
		Made: now.Add(-time.Minute), Touched: now.Add(-time.Minute), Aging: Aging{Now: now, StaleAfter: 30 * time.Minute},
	}
}

// names has f name its maker, which has ended in a way.
func (f Facts) names(exit bootid.Exit, weak bool) Facts {
	f = f.ends(exit)
	f.Rule, f.Claim, f.Named = RuleNamed, payload.Claim{Class: payload.Naming, PID: maker.NSPID, Weak: weak}, f.Maker
	return f
}

func (f Facts) ends(exit bootid.Exit) Facts {
	f.Maker = Party{Process: maker, Exit: exit}
	f.Holder = f.Maker
	return f
}

func (f Facts) data() Facts { f.Claim = payload.Claim{Class: payload.Data}; return f }
func (f Facts) with(change func(*Facts)) Facts {
	change(&f)
	return f
}

const (
	success, failure, signal, notKnown = bootid.ExitSuccess, bootid.ExitFailure, bootid.ExitSignal, bootid.ExitUnknown
)

// TestHowTheHolderEndedDecides is the table of ends, a line each.
func TestHowTheHolderEndedDecides(t *testing.T) {
	ancestor := func(runs bool, exit bootid.Exit) func(*Facts) {
		return func(f *Facts) { f.Ancestors = append(f.Ancestors, Party{Process: other, Runs: runs, Exit: exit}) }
	}
	group := func(f *Facts) { f.GroupRuns = func() bool { return true } }
	old := func(f *Facts) { f.Touched = now.Add(-time.Hour) }
	keep := func(f *Facts) { f.Keep = true }
	furnished := func(f *Facts) { f.Furnished = true }
	closedByEnd := func(f *Facts) { f.ClosedByEnd = true }
	for name, c := range map[string]struct {
		facts   Facts
		verdict Verdict
		reason  Reason
	}{
		"the maker runs":                        {madeNow(KindCreate), Live, ""},
		"it names its holder, which was killed": {madeNow(KindCreate).names(signal, false), Stale, DeadPID},
		"which failed":                          {madeNow(KindCreate).names(failure, false), Stale, DeadPID},
		"which left it":                         {madeNow(KindCreate).names(success, false), Unknown, Left},
		"which left it long ago":                {madeNow(KindCreate).names(success, false).with(old), Stale, TooOld},
		"which left it, and its group runs":     {madeNow(KindCreate).names(success, false).with(old).with(group), Unknown, Left},
		"nobody knows how it ended":             {madeNow(KindCreate).names(notKnown, false), Stale, DeadPID},
		"it was known once":                     {madeNow(KindCreate).names(notKnown, false).with(func(f *Facts) { f.Left = true }), Unknown, Left},
		"an heir of its descriptor closed it":   {madeNow(KindCreate).names(success, false).with(func(f *Facts) { f.Outlived = true }), Stale, DeadPID},
		"a pid file whose process was killed":   {madeNow(KindPIDFile).names(signal, false), Stale, DeadPID},
		"a pid file that was left":              {madeNow(KindPIDFile).names(success, false), Unknown, Left},
		"a pid file that names nobody any more": {madeNow(KindPIDFile).ends(success).data(), Settled, ""},
		"a renamed file":                        {madeNow(KindRename).names(signal, false), Stale, DeadPID},
		"a text that mentions the killed":       {madeNow(KindCreate).names(signal, true), Stale, DeadPID},
		"that mentions one that failed":         {madeNow(KindCreate).names(failure, true), Settled, ""},
		"that mentions one that ended":          {madeNow(KindCreate).names(success, true), Settled, ""},
		"of whose end nothing is known":         {madeNow(KindCreate).names(notKnown, true), Settled, ""},
		"empty, and the maker was killed":       {madeNow(KindCreate).ends(signal), Stale, DeadPID},
		"empty, and it failed":                  {madeNow(KindCreate).ends(failure), Stale, DeadPID},
		"empty, and it ended":                   {madeNow(KindCreate).ends(success), Settled, ""},
		"empty, and nothing is known":           {madeNow(KindCreate).ends(notKnown), Unknown, ""},
		"but that it was closed before":         {madeNow(KindCreate).ends(notKnown).with(func(f *Facts) { f.ClosedBefore = true }), Settled, ""},
		"but it was closed at that moment":      {madeNow(KindCreate).ends(notKnown).with(func(f *Facts) { f.ClosedAtEnd = true }), Stale, DeadPID},
		"data, and the maker ended":             {madeNow(KindCreate).ends(success).data().with(closedByEnd), Settled, ""},
		"data, and it was killed later":         {madeNow(KindCreate).ends(signal).data(), Settled, ""},
		"data, killed with it open":             {madeNow(KindCreate).ends(signal).data().with(closedByEnd), Stale, DeadPID},
		"data, failed with it open":             {madeNow(KindCreate).ends(failure).data().with(closedByEnd), Settled, ""},
		"a descriptor is open":                  {madeNow(KindCreate).ends(signal).with(func(f *Facts) { f.Open = true }), Live, ""},
		"a directory of a script":               {madeNow(KindMkdir).ends(success).with(ancestor(true, 0)), Live, ""},
		"a directory and what is in it, by one": {madeNow(KindMkdir).ends(success).with(ancestor(true, 0)).with(furnished), Settled, ""},
		"which was killed":                      {madeNow(KindMkdir).ends(signal).with(ancestor(true, 0)).with(furnished), Stale, DeadPID},
		"of a program that was killed":          {madeNow(KindMkdir).ends(signal).with(ancestor(true, 0)), Stale, DeadPID},
		"of a program that failed":              {madeNow(KindMkdir).ends(failure).with(ancestor(true, 0)), Stale, DeadPID},
		"of a script that was killed":           {madeNow(KindMkdir).ends(success).with(ancestor(false, signal)).with(ancestor(true, 0)), Stale, DeadPID},
		"of a subshell":                         {madeNow(KindLink).ends(success).with(ancestor(false, failure)).with(ancestor(true, 0)), Live, ""},
		"of a script that ended":                {madeNow(KindMkdir).ends(success).with(ancestor(false, success)), Unknown, ""},
		"long ago":                              {madeNow(KindMkdir).ends(success).with(ancestor(false, success)).with(old), Stale, TooOld},
		"and left a daemon":                     {madeNow(KindMkdir).ends(success).with(ancestor(false, success)).with(old).with(group), Unknown, ""},
		"of a script that failed":               {madeNow(KindMkdir).ends(success).with(ancestor(false, failure)), Stale, DeadPID},
		"that failed, and left a daemon":        {madeNow(KindMkdir).ends(success).with(ancestor(false, failure)).with(group), Unknown, ""},
		"its pattern keeps it":                  {madeNow(KindCreate).names(signal, false).with(keep), Unknown, ""},
		"keeps it, until it is old":             {madeNow(KindCreate).names(signal, false).with(keep).with(old), Stale, TooOld},
		"another boot":                          {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.BootID = bootTwo }), Stale, BootIDMismatch},
		"another boot, and it was left":         {madeNow(KindCreate).names(notKnown, false).with(func(f *Facts) { f.BootID, f.Left = bootTwo, true }), Stale, BootIDMismatch},
		"another boot, and kept":                {madeNow(KindCreate).names(signal, false).with(keep).with(func(f *Facts) { f.BootID = bootTwo }), Unknown, ""},
		"another boot, and data":                {madeNow(KindMkdir).data().with(func(f *Facts) { f.BootID = bootTwo }), Settled, ""},
		"another machine":                       {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.MachineID = "m2" }), Unknown, ""},
		"out of sight":                          {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.OutOfSight = true }), Unknown, ""},
		"its file is gone":                      {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.Gone = true }), Settled, ""},
		"its file cannot be read":               {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.Unreadable = errors.New("EIO") }), Unknown, ""},
		"a hidden process is named":             {madeNow(KindCreate).ends(success).data().with(func(f *Facts) { f.Hidden = bootid.ErrHidden }), Unknown, ""},
		"its pid is another's":                  {madeNow(KindCreate).names(notKnown, false).with(func(f *Facts) { f.Holder.Reuser = other }), Stale, RecycledPID},
		"its maker is not known":                {madeNow(KindCreate).with(func(f *Facts) { f.Maker, f.Holder = Party{}, Party{} }), Unknown, ""},
		"not known, and it holds data":          {madeNow(KindCreate).data().with(func(f *Facts) { f.Maker, f.Holder = Party{}, Party{} }), Settled, ""},
		"another takes over":                    {madeNow(KindCreate).names(signal, false).with(func(f *Facts) { f.Named = Party{Process: other, Runs: true} }), Live, ""},
		"held for too long":                     {madeNow(KindCreate).with(func(f *Facts) { f.MaxHold = time.Second }), Stale, TooOld},
		"a pid file is not held for too long":   {madeNow(KindPIDFile).with(func(f *Facts) { f.MaxHold = time.Second }), Live, ""},
	} {
		if d := Judge(c.facts); d.Verdict != c.verdict || d.Reason != c.reason || d.Evidence == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// TestFound is the table of files without a record.
func TestFound(t *testing.T) {
	file := func(change func(*FoundFacts)) FoundFacts {
		f := FoundFacts{
			Claim: payload.Claim{Class: payload.Naming, PID: 200}, Hostname: "here", Boot: bootid.Boot{ID: bootOne, Time: now.Add(-time.Hour)},
			Owner: 1000, Written: now.Add(-time.Minute), Changed: now.Add(-time.Minute), Process: other, Started: now.Add(-2 * time.Minute),
			Elsewhere: func() bool { return false }, Aging: Aging{Now: now, StaleAfter: 30 * time.Minute},
		}
		change(&f)
		return f
	}
	none := func(f *FoundFacts) { f.Process, f.NoProcess = bootid.Process{}, bootid.ErrNoProcess }
	old := func(f *FoundFacts) { f.Changed = now.Add(-45 * time.Minute) }
	for name, c := range map[string]struct {
		change  func(*FoundFacts)
		verdict Verdict
		reason  Reason
	}{
		"it names a running process":  {func(*FoundFacts) {}, Live, ""},
		"data":                        {func(f *FoundFacts) { f.Claim = payload.Claim{Class: payload.Data} }, Settled, ""},
		"empty":                       {func(f *FoundFacts) { f.Claim = payload.Claim{} }, Settled, ""},
		"no such process":             {none, Stale, DeadPID},
		"which may be in a container": {func(f *FoundFacts) { none(f); f.Elsewhere = func() bool { return true } }, Unknown, ""},
		"which its pattern keeps":     {func(f *FoundFacts) { none(f); f.Keep = true }, Unknown, ""},
		"the pid is another's":        {func(f *FoundFacts) { f.Started = now }, Stale, RecycledPID},
		"another start time":          {func(f *FoundFacts) { f.Claim.Start = 2 }, Stale, RecycledPID},
		"created before it started":   {func(f *FoundFacts) { f.Claim.Created = now.Add(-time.Hour) }, Stale, RecycledPID},
		"a kernel thread":             {func(f *FoundFacts) { f.Process.Manager = true }, Settled, ""},
		"another user's process":      {func(f *FoundFacts) { f.Process.UID = 1001; old(f) }, Unknown, ""},
		"root's file of a user":       {func(f *FoundFacts) { f.Owner = 0; old(f) }, Unknown, ""},
		"a hidden process":            {func(f *FoundFacts) { f.Process, f.NoProcess = bootid.Process{}, bootid.ErrHidden }, Unknown, ""},
		"another boot":                {func(f *FoundFacts) { f.Claim.BootID = bootTwo }, Stale, BootIDMismatch},
		"before this boot":            {func(f *FoundFacts) { f.Changed = now.Add(-2 * time.Hour) }, Stale, BeforeBoot},
		"another host":                {func(f *FoundFacts) { f.OtherHost, f.Claim.Host = true, "there"; none(f) }, Unknown, ""},
		"another host, and old":       {func(f *FoundFacts) { f.OtherHost, f.Claim.Host = true, "there"; none(f); old(f) }, Stale, TooOld},
		"host-pid of no host":         {func(f *FoundFacts) { f.OtherHost, f.Ambiguous, f.Claim.Host = true, true, "node" }, Settled, ""},
		"shared with others":          {func(f *FoundFacts) { f.Shared = true; none(f) }, Unknown, ""},
		"names nobody":                {func(f *FoundFacts) { f.Claim.PID = 0 }, Unknown, ""},
		"names nobody, and is old":    {func(f *FoundFacts) { f.Claim.PID = 0; old(f) }, Stale, MissingPID},
		"and its time is none":        {func(f *FoundFacts) { f.Claim.PID, f.Claim.BadCreatedAt = 0, true; old(f) }, Stale, InvalidCreatedAt},
	} {
		if d := JudgeFound(file(c.change)); d.Verdict != c.verdict || d.Reason != c.reason || d.Evidence == "" {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestWhoMayHold(t *testing.T) {
	root := bootid.Process{PID: 1, NSPID: 1, StartTime: 1, Manager: true}
	for name, c := range map[string]struct {
		named, writer bootid.Process
		family, may   bool
	}{
		"the writer":               {maker, maker, true, true},
		"process 1 that writes":    {root, root, true, true},
		"one of its family":        {other, maker, true, true},
		"another":                  {other, maker, false, false},
		"another, written by root": {other, bootid.Process{PID: 5, StartTime: 1}, false, false},
		"root's child":             {other, bootid.Process{PID: 5, StartTime: 1}, true, true},
		"process 1":                {root, bootid.Process{PID: 5, StartTime: 1}, true, false},
		"another user's child":     {bootid.Process{PID: 6, StartTime: 1, UID: 1001}, maker, true, false},
	} {
		if MayHold(c.named, c.writer, c.family) != c.may {
			t.Errorf("%s may hold: %v", name, !c.may)
		}
	}
}

// TestEveryReasonIsDocumented: the documentation explains every reason.
func TestEveryReasonIsDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range slices.Concat(Reasons(Stale), Reasons(Unknown)) {
		if !strings.Contains(string(text), "`"+string(reason)+"`") || reason.Means() == "" {
			t.Errorf("docs/semantics.md: %s is not documented", reason)
		}
	}
}
