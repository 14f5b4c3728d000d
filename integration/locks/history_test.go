//go:build linux

package locks

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"latchfs/fs"
	"latchfs/integration/harness"
	"latchfs/lockstore/mutant"
)

// A history lists the calls that several processes made on a few locks, with the times of call and return. It is
// right if the calls can be ordered, each between its two times, so that each lock has one holder at a time and is
// free once its holder has died.

// lockCall is an operation of a history.
type lockCall struct {
	what    string // take, remove, look or die
	process int    // a number for each process
	from    time.Duration
	to      time.Duration
}

// unanswered is the result of a call whose process was killed during the call.
const unanswered = "unanswered"

// lockState is the state of a lock in the model.
type lockState struct {
	holder int // a process, free or stale
	// attributes is the time until which the kernel may have the attributes of the lock cached.
	attributes time.Duration
}

const (
	free = 0
	// A stale lock is free too. But a process that removes it may find it there, and so may a process that looks
	// shortly after it was made.
	stale = -1

	// attributesCached is how long the kernel caches the attributes of a new lock. It rounds up to a clock tick.
	attributesCached = fs.CreateLifetime + 10*time.Millisecond
)

// oneLock is porcupine's model of a lock.
var oneLock = porcupine.NondeterministicModel{
	// The history before this one left locks of dead processes.
	Init: func() []any { return []any{lockState{}, lockState{stale, attributesCached}} },
	Step: func(state, input, output any) []any {
		lock, call := state.(lockState), input.(lockCall)
		held := lock.holder > free
		is := func(ok bool, next lockState) []any {
			if ok {
				return []any{next}
			}
			return nil
		}
		taken := lockState{call.process, call.to + attributesCached}
		switch call.what {
		case "take":
			switch {
			case output == unanswered && !held:
				return []any{lock, taken}
			case output == unanswered:
				return []any{lock}
			case output == "ok":
				return is(!held, taken)
			}
			return is(output == "EEXIST" && held, lock)
		case "remove":
			switch {
			case lock.holder == call.process:
				return is(output == "ok", lockState{})
			case held:
				return is(output == "EBUSY", lock)
			}
			return is(output == "ENOENT" || output == "ok" && lock.holder == stale, lockState{})
		case "look":
			if output == "ok" {
				return is(held || lock.holder == stale && call.from < lock.attributes, lock)
			}
			return is(output == "ENOENT" && !held, lockState{})
		case "die":
			if lock.holder == call.process {
				lock.holder = stale
			}
			return []any{lock}
		}
		return nil
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%s: %v", input.(lockCall).what, output) },
}

// A recorder collects the operations of a history, for each lock.
type recorder struct {
	start time.Time

	mu         sync.Mutex
	operations map[string][]porcupine.Operation
	count      int
}

func (r *recorder) add(names []string, client int, call lockCall, from time.Duration, output string) {
	to := time.Since(r.start)
	call.from, call.to = from, to
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	for _, name := range names {
		r.operations[name] = append(r.operations[name], porcupine.Operation{
			ClientId: client, Input: call, Call: int64(from), Output: output, Return: int64(to),
		})
	}
}

// record makes a history of a number of operations in a directory.
func record(t *testing.T, dir string, seed uint64, operations int) *recorder {
	t.Helper()
	const clients = 6
	names := []string{"a.lock", "b.lock", "c.lock"}
	r := &recorder{start: time.Now(), operations: make(map[string][]porcupine.Operation)}
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(client)))
			incarnation := 0
			var p *harness.Process
			start := func() {
				incarnation++
				p = harness.StartProcess(t)
			}
			start()
			held := make(map[string]bool)
			for range operations / clients {
				number := 1 + client + clients*incarnation
				name := names[random.IntN(len(names))]
				path := filepath.Join(dir, name)
				call := lockCall{what: "take", process: number}
				command := []string{"take", path}
				switch dice := random.IntN(100); {
				case held[name] && dice < 80:
					call.what, command = "remove", []string{"remove", path}
				case dice < 10:
					call.what, command = "look", []string{"look", path}
				case dice < 15:
					call.what, command = "remove", []string{"remove", path}
				case dice < 30:
					command[0] = "make"
				case dice < 33: // dies, most likely before it answers
					from := time.Since(r.start)
					p.Send("take", path)
					time.Sleep(time.Duration(random.IntN(int(300 * time.Microsecond))))
					dying := time.Since(r.start)
					p.Kill()
					r.add([]string{name}, client, call, from, unanswered)
					r.add(names, client, lockCall{what: "die", process: number}, dying, "")
					clear(held)
					start()
					continue
				}
				from := time.Since(r.start)
				output := p.Do(command...)
				r.add([]string{name}, client, call, from, output)
				if output == "ok" && call.what != "look" {
					held[name] = call.what == "take"
				}
			}
			dying := time.Since(r.start)
			p.Kill()
			r.add(names, client, lockCall{what: "die", process: 1 + client + clients*incarnation}, dying, "")
		})
	}
	all.Wait()
	return r
}

// check returns porcupine's verdict on a history, and where the first lock goes wrong.
func (r *recorder) check() (porcupine.CheckResult, string) {
	model := oneLock.ToModel()
	for name, operations := range r.operations {
		result, info := porcupine.CheckOperationsVerbose(model, operations, time.Minute)
		if result == porcupine.Ok {
			continue
		}
		var longest []porcupine.Operation
		for _, partial := range info.PartialLinearizationsOperations()[0] {
			if len(partial) > len(longest) {
				longest = partial
			}
		}
		return result, name + around(longest, operations)
	}
	return porcupine.Ok, ""
}

// around lists the end of the longest order that porcupine found, and the first operations that have no place in
// it.
func around(longest, all []porcupine.Operation) string {
	var text strings.Builder
	line := func(prefix string, o porcupine.Operation) {
		fmt.Fprintf(&text, "\n%s %8d..%8d us  process %v: %v", prefix, o.Call/1000, o.Return/1000, o.Input.(lockCall).process,
			oneLock.DescribeOperation(o.Input, o.Output))
	}
	placed := make(map[porcupine.Operation]bool)
	for _, o := range longest {
		placed[o] = true
	}
	for _, o := range longest[max(0, len(longest)-12):] {
		line("  in order", o)
	}
	var left []porcupine.Operation
	for _, o := range all {
		if !placed[o] {
			left = append(left, o)
		}
	}
	slices.SortFunc(left, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range left[:min(8, len(left))] {
		line("  no place", o)
	}
	return text.String()
}

const operationsEach = 2000

// TestHistories checks that the answers to processes that take, release and look at locks, and are killed, have an
// order, without and with kills of the server. HISTORIES is the number of histories of each kind, HISTORY_SEED the
// seed of the first.
func TestHistories(t *testing.T) {
	histories := harness.EnvNumber(t, "HISTORIES", 8)
	first := harness.EnvNumber(t, "HISTORY_SEED", int(time.Now().Unix()))
	t.Logf("HISTORY_SEED=%d", first)
	for _, restarts := range []bool{false, true} {
		m := harness.MountOver(t, t.TempDir())
		operations := 0
		for i := range histories {
			seed := uint64(first + i)
			stop := make(chan struct{})
			kills := func() int { return 0 }
			if restarts {
				kills = m.KillServerRepeatedly(stop, 20*time.Millisecond, 200*time.Millisecond)
			}
			r := record(t, m.Dir, seed, operationsEach)
			close(stop)
			kills()
			operations += r.count
			if result, where := r.check(); result != porcupine.Ok {
				t.Fatalf("restarts %v, seed %d: %v: %s", restarts, seed, result, where)
			}
		}
		m.WaitUntilServed()
		t.Logf("restarts %v: %d histories, %d operations: Ok", restarts, histories, operations)
	}
}

// TestHistoriesCanFail checks that TestHistories finds faults: with a fault built into latchfs there is a history
// without an order.
func TestHistoriesCanFail(t *testing.T) {
	t.Parallel()
	for what, fault := range mutant.Faults {
		t.Run(what, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "latchfs")
			if err := harness.Build(program, "-overlay", fault.Overlay(t, harness.RepoPath("lockstore"))); err != nil {
				t.Fatal(err)
			}
			m := (&harness.Mount{T: t, Program: program}).Over(t.TempDir())
			stop := make(chan struct{})
			defer m.KillServerRepeatedly(stop, 20*time.Millisecond, 200*time.Millisecond)()
			defer close(stop)
			for seed := range uint64(100) {
				if result, _ := record(t, m.Dir, seed, operationsEach/4).check(); result == porcupine.Illegal {
					return
				}
			}
			t.Error("a hundred histories had an order")
		})
	}
}
