package lockstore

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"pgregory.net/rapid"

	"latchfs/bootid"
	"latchfs/lockstore/mutant"
	"latchfs/lockstore/verdict"
)

// proof is a store on a made-up machine with a tree of processes that make files at lock names, with texts
// that may name one of them, and end in all ways. What is known of each file is what its maker knows.
type proof struct {
	*world
	processes []bootid.Process // running and ended
	running   map[int]bool     // by pid
	ends      map[int]bootid.Exit
	ancestry  map[int][]int // of each process, when it was started
	ticks     uint64
	locks     map[string]*proofLock
}

// proofLock is a file at a lock name and what its maker knows of it.
type proofLock struct {
	kind   verdict.Kind
	maker  int
	named  int // the process that the text names, 0 if there is none
	family bool
	strong bool // by a form, not only by its number
	empty  bool
	// unclear: it names a relative that has ended, or one with an ended process in between, of which the store may know
	// from before.
	unclear bool
	open    *Descriptor
	heir    bool // another process had the descriptor after the maker's end
}

// firstPID is that of the first process; others of the machine are kernel threads and the like.
const firstPID = 1000

func newProof(t *testing.T) *proof {
	t.Helper()
	state, err := os.MkdirTemp(t.TempDir(), "state")
	if err != nil {
		t.Fatal(err)
	}
	p := &proof{
		world:   &world{t: t, machine: newMachine(), files: &directory{}, state: state, log: logrus.New()},
		running: make(map[int]bool), ends: make(map[int]bootid.Exit), ancestry: make(map[int][]int), locks: make(map[string]*proofLock),
	}
	p.log.SetOutput(io.Discard)
	for pid, command := range map[int]string{1: "init", 15: "rcu_preempt", 77: "sshd"} {
		q := p.run(pid, 1, 0)
		q.Manager, q.Command = true, command
		p.machine.processes[pid] = q
	}
	p.open()
	return p
}

// start starts a process, of one that runs or of the machine's first.
func (p *proof) start(t *rapid.T) {
	if len(p.processes) > 40 {
		t.Skip("enough")
	}
	p.ticks++
	parent := 1
	if all := p.alive(); len(all) > 0 && rapid.Bool().Draw(t, "child") {
		parent = rapid.SampledFrom(all).Draw(t, "parent").PID
	}
	pid := firstPID + len(p.processes)
	q := p.run(pid, 10+p.ticks, rapid.SampledFrom([]uint32{0, 0, 1000}).Draw(t, "user"))
	p.parents[pid] = parent
	p.processes = append(p.processes, q)
	p.running[pid] = true
	p.ancestry[pid] = append([]int{parent}, p.ancestry[parent]...)
}

func (p *proof) alive() (alive []bootid.Process) {
	for _, q := range p.processes {
		if p.running[q.PID] {
			alive = append(alive, q)
		}
	}
	return alive
}

func (p *proof) somebody(t *rapid.T) bootid.Process {
	all := p.alive()
	if len(all) == 0 {
		t.Skip("nobody runs")
	}
	return rapid.SampledFrom(all).Draw(t, "process")
}

// isFamily reports whether other runs and is maker, its ancestor or its descendant.
func (p *proof) isFamily(maker, other int) bool {
	return p.running[other] && (maker == other || slices.Contains(p.ancestry[maker], other) || slices.Contains(p.ancestry[other], maker)) &&
		p.connected(maker, other)
}

// connected reports whether all processes between two of a chain still run.
func (p *proof) connected(a, b int) bool {
	if a == b {
		return true
	} else if slices.Contains(p.ancestry[a], b) {
		a, b = b, a // b is beneath a
	}
	for _, between := range p.ancestry[b] {
		if between == a {
			return true
		} else if !p.running[between] {
			return false
		}
	}
	return false
}

// user is that of a process.
func (p *proof) user(pid int) uint32 {
	at := slices.IndexFunc(p.processes, func(q bootid.Process) bool { return q.PID == pid })
	if at < 0 {
		return 0
	}
	return p.processes[at].UID
}

// proofTexts are texts with a number, and whether their form says that it is a pid.
var proofTexts = []struct {
	text   string
	strong bool
}{
	{"%d\n", true}, {`{"pid":%d}`, true}, {`{"owner":{"pid":%d},"host":"here"}`, true}, {"here:%d", true}, {"pid: %d\n", true},
	{`{"holder":%d}`, false}, {"taken by process %d\n", false}, {"0x%x", false},
}

// take makes a lock of some kind and text.
func (p *proof) take(t *rapid.T) {
	maker := p.somebody(t)
	lock := fmt.Sprintf("%d.lock", len(p.locks))
	l := &proofLock{maker: maker.PID, kind: rapid.SampledFrom([]verdict.Kind{
		verdict.KindCreate, verdict.KindCreate, verdict.KindMkdir, verdict.KindLink, verdict.KindRename, verdict.KindPIDFile,
	}).Draw(t, "kind")}
	about := rapid.SampledFrom([]string{"itself", "itself", "another", "another", "nobody", "manager", "manager", "dead", "empty"}).Draw(t, "about")
	form := rapid.SampledFrom(proofTexts).Draw(t, "text")
	switch about {
	case "itself":
		l.named = maker.PID
	case "another":
		l.named = rapid.SampledFrom(p.processes).Draw(t, "named").PID
	case "manager":
		l.named = rapid.SampledFrom([]int{1, 15, 77}).Draw(t, "manager")
	case "dead":
		l.named = 99999
	}
	text := fmt.Sprintf(form.text, l.named)
	l.strong = form.strong
	l.family = p.isFamily(l.maker, l.named)
	l.family = l.family && (maker.UID == 0 || maker.UID == p.user(l.named))
	related := slices.Contains(p.ancestry[l.maker], l.named) || slices.Contains(p.ancestry[l.named], l.maker)
	l.unclear = related && (!p.running[l.named] || !p.connected(l.maker, l.named))
	if l.kind.ByCommand() {
		// The script that ran the command may name its own children.
		for _, script := range p.ancestry[l.maker] {
			if p.running[script] {
				l.family = l.family || (maker.UID == 0 || maker.UID == p.user(l.named)) && p.isFamily(l.maker, script) && slices.Contains(p.ancestry[l.named], script) && p.isFamily(script, l.named)
				break
			}
		}
	}
	if about == "empty" {
		text, l.empty = "", true
	} else if about == "nobody" {
		text = "some words\n"
	}
	p.locks[lock] = l
	switch l.kind {
	case verdict.KindPIDFile:
		p.files.put(lock, text, p.now())
		seen := &CachedJudgment{}
		seen.WrittenBy(p.store.Writer(maker, true))
		p.store.Written(lock, seen)
		return
	case verdict.KindCreate:
		nameLock := p.store.Enter(lock)
		d, err := nameLock.Acquire(l.kind, maker)
		if err != nil {
			t.Fatal(err)
		}
		p.files.put(lock, text, p.now())
		p.files.files[lock].uid = maker.UID
		nameLock.Leave()
		p.store.Wrote(d, []byte(text), func() bootid.Process { return maker })
		if rapid.Bool().Draw(t, "kept open") {
			l.open = d
			return
		}
		p.store.Closed(d, false)
	case verdict.KindMkdir:
		p.make(lock, l.kind, maker, Directory, "")
		if !l.empty {
			p.files.put(lock+"/info", text, p.now())
			p.store.Written(lock, &CachedJudgment{})
		}
	default:
		nameLock := p.store.Enter(lock)
		if _, err := nameLock.Acquire(l.kind, maker); err != nil {
			t.Fatal(err)
		}
		p.files.put(lock, text, p.now())
		p.files.files[lock].uid = maker.UID
		nameLock.Made()
		nameLock.Leave()
	}
	p.entry(lock) // has it read while the maker is there
}

// die ends a process; it has its descriptors closed.
func (p *proof) die(t *rapid.T) {
	q := p.somebody(t)
	how := rapid.SampledFrom([]bootid.Exit{bootid.ExitSuccess, bootid.ExitFailure, bootid.ExitSignal, bootid.ExitUnknown}).Draw(t, "exit")
	inherited := rapid.Bool().Draw(t, "descriptors inherited")
	for _, l := range p.locks {
		l.heir = l.heir || l.maker == q.PID && l.open != nil && inherited
		if l.maker == q.PID && l.open != nil && !inherited {
			p.mu.Lock()
			p.exiting[q.PID] = true
			p.mu.Unlock()
			p.store.Closed(l.open, true)
			l.open = nil
		}
	}
	delete(p.running, q.PID)
	p.ends[q.PID] = how
	p.end(q, how, false)
	for child, parent := range p.parents {
		if parent == q.PID {
			p.parents[child] = 1
		}
	}
	for name := range p.locks {
		p.visible(name)
	}
}

// closeOne closes a descriptor that was inherited, or its maker has.
func (p *proof) closeOne(t *rapid.T) {
	for name, l := range p.locks {
		if l.open != nil {
			p.store.Closed(l.open, false)
			l.open = nil
			p.entry(name)
			return
		}
	}
	t.Skip("none is open")
}

func (p *proof) serverDies(*rapid.T) {
	if err := p.store.Close(); err != nil {
		p.t.Fatal(err)
	}
	open := make(map[uint64]bool)
	for _, l := range p.locks {
		if l.open != nil {
			open[l.open.Generation()] = true
		}
	}
	store, err := Open(Options{StateDir: p.state, System: p.machine, Files: p.files, StaleAfter: time.Hour, Log: p.log, Now: p.now, Predecessor: Predecessor{Open: open}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.store = store
	descriptors := store.Descriptors()
	for _, l := range p.locks {
		if l.open != nil {
			l.open = descriptors[l.open.Generation()]
		}
	}
}

// holders are the processes that may hold a lock, by what its maker knows.
func (p *proof) holders(l *proofLock) []int {
	holders := []int{l.maker}
	if l.family {
		holders = append(holders, l.named)
	}
	if l.kind.ByCommand() {
		holders = append(holders, p.ancestry[l.maker]...)
	}
	return slices.DeleteFunc(holders, func(pid int) bool { return !p.running[pid] })
}

// isData reports whether a closed file is no lock, from the knowledge of its maker.
func (l *proofLock) isData() bool {
	switch {
	case l.family:
		return false
	case l.kind == verdict.KindMkdir: // a few words are a note, and another's number is a copy
		return l.named != 0 && l.strong
	case l.kind == verdict.KindRename, l.kind == verdict.KindPIDFile:
		return true
	}
	return !l.empty
}

// check is made after every step.
func (p *proof) check(t *rapid.T) {
	listed := make(map[string]Entry)
	for e := range p.store.All(func(string) bool { return true }) {
		listed[e.Name] = e
	}
	for name, l := range p.locks {
		e, held := listed[name]
		holders := p.holders(l)
		switch {
		case held && e.Verdict == verdict.Live && e.Judgment.Rule == verdict.RuleDescriptor:
			if l.open == nil {
				t.Fatalf("%s %+v: live by a descriptor that is closed: %+v", name, *l, e)
			}
		case held && e.Verdict == verdict.Live && !slices.Contains(holders, e.Holder.PID):
			t.Fatalf("%s %+v: live, and none of %v holds it: %+v", name, *l, holders, e)
		case l.unclear:
		case held && l.isData() && l.open == nil:
			t.Fatalf("%s %+v: it is a lock: %+v", name, *l, e)
		case !held && !p.files.has(name) && l.isData() && !(l.kind == verdict.KindCreate && p.ends[l.maker] == bootid.ExitSignal):
			t.Fatalf("%s %+v: it is gone", name, *l)
		case !p.files.has(name) && p.running[l.maker] && l.kind != verdict.KindPIDFile:
			t.Fatalf("%s %+v: it is gone, and its maker runs", name, *l)
		case !p.files.has(name) && l.family && p.running[l.named]:
			t.Fatalf("%s %+v: it is gone, and the process that it names runs", name, *l)
		case !p.files.has(name) && l.family && l.strong && l.open == nil && p.ends[l.named] == bootid.ExitSuccess && l.kind != verdict.KindMkdir && l.named == l.maker && !l.heir:
			t.Fatalf("%s %+v: it is gone, and its holder left it", name, *l)
		case !p.files.has(name) && l.family && !l.strong && l.named == l.maker && p.ends[l.maker] != bootid.ExitSignal && l.kind != verdict.KindPIDFile:
			t.Fatalf("%s %+v: it is gone, though it only mentions its maker, which was not killed", name, *l)
		case p.files.has(name) && held && l.family && l.strong && l.open == nil && p.ends[l.named] == bootid.ExitSignal && l.named == l.maker && l.kind != verdict.KindPIDFile:
			t.Fatalf("%s %+v: its holder was killed, and it is there: %+v", name, *l, e)
		case held && l.family && !l.strong && l.open == nil && l.named == l.maker && p.ends[l.maker] == bootid.ExitSuccess && l.kind == verdict.KindCreate && e.Verdict != verdict.Settled:
			t.Fatalf("%s %+v: it only mentions its maker, which ended: %+v", name, *l, e)
		}
	}
}

// TestProof: no verdict is live without a running process of the family that the text or the kernel names,
// and none is stale while one runs; data and copies are nobody's and stay.
func TestProof(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newProof(t)
		defer func() { _ = p.store.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"": p.check, "start": p.start, "start again": p.start, "take": p.take, "take again": p.take,
			"die": p.die, "close": p.closeOne, "server dies": p.serverDies,
		})
	})
}

// TestProofCanFail: the proof fails if a rule is missing or inverted.
func TestProofCanFail(t *testing.T) {
	if raceEnabled {
		t.Skip("without the race detector it is the same")
	}
	for _, m := range [][3]string{
		{"verdict/verdict.go", "case !family || named.Manager:", "case named.Manager:"},
		{"verdict/judge.go", "case f.Maker.Runs:", "case false:"},
		{"verdict/judge.go", "case holder.Exit == bootid.ExitSuccess && !f.Outlived:", "case false:"},
		{"verdict/judge.go", "if f.Holder.Exit == bootid.ExitSignal {", "if true {"},
		{"verdict/judge.go", "f.ClosedByEnd && f.Maker.Exit == bootid.ExitSignal", "true"},
		{"look.go", "if writer != nil || c.remembers(found) {", "if writer != nil {"},
		{"payload/payload.go", "add(true, numbers)", ""},
	} {
		m := mutant.Mutant{File: m[0], Rule: m[1], Instead: m[2]}
		t.Run(m.File+": "+m.Rule, func(t *testing.T) {
			t.Parallel()
			out, err := testMutant(t, m, "TestProof", "-rapid.checks", "1000")
			// What follows from a death runs beside the next step, so a failure may not come again.
			if err == nil || !strings.Contains(out, "[rapid] failed after") && !strings.Contains(out, "[rapid] flaky test") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// testMutant runs one test of this package with a fault.
func testMutant(t *testing.T, m mutant.Mutant, test string, args ...string) (string, error) {
	t.Helper()
	args = append([]string{
		"test", "-count=1", "-overlay", m.Overlay(t, "."), "-run", "^" + test + "$", "-rapid.nofailfile", "-rapid.shrinktime", "1ms",
	}, args...)
	out, err := exec.Command("go", append(args, ".")...).CombinedOutput()
	return string(out), err
}
