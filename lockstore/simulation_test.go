package lockstore

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
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

// simulation is the store on a made-up machine beside a model that is as simple as what users
// expect: a lock is held as long as its holder runs, under the boot it was taken in, and no longer. One that
// its holder left, ending with status 0, is there until it is too old.
type simulation struct {
	*world
	living     []bootid.Process
	holders    map[string]bootid.Process // of every lock that was taken and not given back
	left       map[string]time.Time      // when those were taken that were left
	ticks      uint64                    // start times
	boots      int
	generation uint64
}

var simulatedNames = []string{"a.lock", "b.lock", "dir/c.lock"}

func newSimulation(t *testing.T) *simulation {
	t.Helper()
	state, err := os.MkdirTemp(t.TempDir(), "state")
	if err != nil {
		t.Fatal(err)
	}
	s := &simulation{
		world:   &world{t: t, machine: newMachine(), files: &directory{}, state: state, log: logrus.New()},
		holders: make(map[string]bootid.Process), left: make(map[string]time.Time),
	}
	s.log.SetOutput(io.Discard)
	s.open()
	return s
}

// held returns the holder of a lock in the model.
func (s *simulation) held(name string) (bootid.Process, bool) {
	holder, taken := s.holders[name]
	return holder, taken && slices.Contains(s.living, holder)
}

// isLeft reports whether a lock without a holder exists in the model.
func (s *simulation) isLeft(name string) bool {
	taken, left := s.left[name]
	return left && s.clock.Sub(taken) <= s.store.staleAfter
}

func (s *simulation) somebody(t *rapid.T) bootid.Process {
	if len(s.living) == 0 {
		t.Skip("nobody lives")
	}
	return rapid.SampledFrom(s.living).Draw(t, "process")
}

func (s *simulation) name(t *rapid.T) string {
	return rapid.SampledFrom(simulatedNames).Draw(t, "name")
}

// start starts a process under a pid that is free: most have had others before.
func (s *simulation) start(t *rapid.T) {
	pid := rapid.IntRange(100, 105).Draw(t, "pid")
	if slices.ContainsFunc(s.living, func(p bootid.Process) bool { return p.PID == pid }) {
		t.Skip("that pid is taken")
	}
	s.ticks++
	s.living = append(s.living, s.run(pid, s.ticks, 1000))
}

func (s *simulation) die(t *rapid.T) {
	p := s.somebody(t)
	how := rapid.SampledFrom([]bootid.Exit{bootid.ExitSuccess, bootid.ExitFailure, bootid.ExitSignal, bootid.ExitUnknown}).Draw(t, "exit")
	for name, holder := range s.holders {
		if holder == p && how == bootid.ExitSuccess {
			s.left[name] = s.files.files[name].written // one that is too old is gone soon after the end
		}
	}
	s.end(p, how, rapid.Bool().Draw(t, "told"))
	s.living = slices.DeleteFunc(s.living, func(other bootid.Process) bool { return other == p })
	for name, holder := range s.holders {
		if holder == p && how == bootid.ExitSuccess {
			s.visible(name) // before a restart, after which nobody could tell
		}
	}
}

// take models a CREATE request.
func (s *simulation) take(t *rapid.T) {
	p, name := s.somebody(t), s.name(t)
	holder, held := s.held(name)
	if visible := s.visible(name); visible != (held || s.isLeft(name)) {
		t.Fatalf("%s: visible %v, held by %v: %v, left %v", name, visible, holder, held, s.isLeft(name))
	}
	if held || s.isLeft(name) {
		return
	}
	delete(s.left, name)
	nameLock := s.store.Enter(name)
	d, err := nameLock.Acquire(verdict.KindCreate, p)
	if err != nil {
		nameLock.Leave()
		t.Fatalf("%s is free: %v", name, err)
	}
	if d.Generation() <= s.generation {
		t.Fatalf("generation %d after %d", d.Generation(), s.generation)
	}
	s.generation = d.Generation()
	payload := rapid.SampledFrom([]string{"%d\n", `{"pid":%d}`, `{"pid":%d,"bootId":"` + s.boot.ID + `"}`}).Draw(t, "payload")
	s.files.put(name, fmt.Sprintf(payload, p.PID), s.now())
	nameLock.Leave()
	s.store.Closed(d, s.store.Ending(d))
	s.holders[name] = p
}

// remove models an UNLINK request.
func (s *simulation) remove(t *rapid.T) {
	p, name := s.somebody(t), s.name(t)
	holder, held := s.held(name)
	if s.visible(name) != (held || s.isLeft(name)) {
		t.Fatalf("%s: held by %v: %v, left %v, but not seen so", name, holder, held, s.isLeft(name))
	}
	if !held && !s.isLeft(name) {
		return
	}
	nameLock := s.store.Enter(name)
	defer nameLock.Leave()
	err := nameLock.Admit(func() bootid.Process { return p }, Removing)
	switch {
	case s.isLeft(name) && err != nil:
		t.Fatalf("%s was left: %v may not remove it: %v", name, p, err)
	case held && p != holder && !errors.Is(err, ErrHeld):
		t.Fatalf("%s of %v: %v may remove it: %v", name, holder, p, err)
	case held && p == holder && err != nil:
		t.Fatalf("%s: its holder %v may not remove it: %v", name, p, err)
	case err == nil:
		_ = s.files.Remove(name)
		nameLock.Release()
		delete(s.holders, name)
		delete(s.left, name)
	}
}

// newBoot ends everything and starts again under another boot id.
func (s *simulation) newBoot(t *rapid.T) {
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.living {
		s.end(p, bootid.ExitUnknown, false)
	}
	s.living = nil
	clear(s.left)
	s.boots++
	s.boot.ID = fmt.Sprintf("%08d-2222-4333-8444-555555555555", s.boots)
	s.advance(time.Minute)
	s.boot.Time = s.clock
	s.advance(time.Minute)
	s.open()
}

// check is made after every step: what is listed as live is what is held.
func (s *simulation) check(t *rapid.T) {
	listed := make(map[string]Entry)
	for e := range s.store.All(func(string) bool { return true }) {
		listed[e.Name] = e
	}
	for _, name := range simulatedNames {
		holder, held := s.held(name)
		e, ok := listed[name]
		if held != (ok && e.Verdict == verdict.Live) || held && !e.Holder.Same(holder) {
			t.Fatalf("%s: held by %v: %v; listed: %v %+v", name, holder, held, ok, e)
		}
	}
}

// TestSimulation runs random histories. A failure prints the shortest one it finds, and how to
// have it again.
func TestSimulation(t *testing.T) {
	// Long enough for several processes to meet at a name.
	if err := flag.Set("rapid.steps", "100"); err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := newSimulation(t)
		defer func() { _ = s.store.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"": s.check,
			// Those that come twice come more often.
			"start": s.start, "start again": s.start,
			"take": s.take, "take again": s.take,
			"remove": s.remove, "remove again": s.remove,
			"die": s.die,
			"restart": func(*rapid.T) {
				s.restart()
			},
			"reboot": s.newBoot,
			"wait": func(t *rapid.T) {
				s.advance(time.Duration(rapid.IntRange(1, 100).Draw(t, "minutes")) * time.Minute)
			},
		})
	})
}

// TestSimulationCanFail: the model is not satisfied with a store that has a fault.
func TestSimulationCanFail(t *testing.T) {
	if raceEnabled {
		t.Skip("without the race detector it is the same")
	}
	for what, fault := range mutant.Faults {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			if out, err := testMutant(t, fault, "TestSimulation"); err == nil || !strings.Contains(out, "[rapid] failed after") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
