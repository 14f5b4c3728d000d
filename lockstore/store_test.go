package lockstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

const name = "s/x.lock"

func TestLiveHolderIsNotTooOld(t *testing.T) {
	w := newWorld(t)
	p, other := w.run(10, 100, 0), w.run(11, 100, 0)
	w.take(name, p, "10\n")
	w.advance(1000 * time.Hour)
	if !w.visible(name) || w.admitted(name, other) || !w.admitted(name, p) {
		t.Error("age took a live lock away")
	}
}

func TestMaxHoldTakesALiveLockAway(t *testing.T) {
	w := newWorld(t)
	w.store.maxHold = time.Minute
	p, other := w.run(10, 100, 0), w.run(11, 100, 0)
	w.take(name, p, "10\n")
	if !w.visible(name) || w.admitted(name, other) {
		t.Error("it is not held")
	}
	w.advance(2 * time.Minute)
	if w.visible(name) {
		t.Error("it is held for longer than allowed")
	}
}

func TestDeathFreesAtTheNextLook(t *testing.T) {
	for _, told := range []bool{true, false} {
		w := newWorld(t)
		p := w.run(10, 100, 0)
		w.take(name, p, "10\n")
		w.end(p, bootid.ExitSignal, told)
		if w.visible(name) || w.files.has(name) {
			t.Errorf("told %v: the lock of a dead holder is there", told)
		}
	}
}

// removals are Files that tell of removals.
type removals struct {
	*directory
	told func()
}

func (r removals) Remove(name string) error {
	r.told()
	return r.directory.Remove(name)
}

// TestCloseWaitsForOneReaping: a store that is closed while a process that held many locks has ended does not reap
// them all first; who opens it next does.
func TestCloseWaitsForOneReaping(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	const locks = 10
	for i := range locks {
		w.take(fmt.Sprintf("%d.lock", i), p, "10\n")
		w.visible(fmt.Sprintf("%d.lock", i)) // or Close would read it, and wait for the one that is removed
	}
	store, closed := w.store, make(chan error)
	store.files = removals{w.files, sync.OnceFunc(func() {
		go func() { closed <- store.Close() }()
		for !store.processes.isClosed() {
			time.Sleep(time.Millisecond)
		}
	})}
	w.end(p, bootid.ExitSignal, true)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	left := 0
	for i := range locks {
		if w.files.has(fmt.Sprintf("%d.lock", i)) {
			left++
		}
	}
	if left != locks-1 {
		t.Errorf("%d of %d locks are left", left, locks)
	}
	w.open()
	for i := range locks {
		if w.visible(fmt.Sprintf("%d.lock", i)) {
			t.Errorf("lock %d is there", i)
		}
	}
}

func TestDeathIsReapedWithoutALook(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.take(name, p, "10\n")
	events := w.store.Subscribe()
	defer events.Close()
	w.end(p, bootid.ExitSignal, true)
	for e := range events.Events {
		if e.Transition == Reaped {
			if e.Reason != verdict.DeadPID || e.Lock.Name != name || w.files.has(name) {
				t.Errorf("%+v", e)
			}
			break
		}
	}
}

func TestVerdictsAfterARestart(t *testing.T) {
	for _, c := range []struct {
		name   string
		happen func(*world, bootid.Process)
		reason verdict.Reason // empty: it is held
	}{
		{"the holder lives", func(*world, bootid.Process) {}, ""},
		{"the holder is dead", func(w *world, p bootid.Process) { w.end(p, bootid.ExitUnknown, false) }, verdict.DeadPID},
		{"its pid is another's", func(w *world, p bootid.Process) { w.end(p, bootid.ExitUnknown, false); w.run(p.PID, 200, 0) }, verdict.RecycledPID},
		{"another boot", func(w *world, _ bootid.Process) { w.boot.ID = bootTwo }, verdict.BootIDMismatch},
		{"boot id unknown now", func(w *world, _ bootid.Process) { w.boot.ID = "" }, ""},
		{"boot id unknown now and the holder is dead", func(w *world, p bootid.Process) { w.boot.ID = ""; w.end(p, bootid.ExitUnknown, false) }, verdict.DeadPID},
		{"another machine", func(w *world, _ bootid.Process) { w.boot.MachineID, w.boot.ID = "m2", bootTwo }, ""},
		{"another machine, and old", func(w *world, _ bootid.Process) {
			w.boot.MachineID, w.clock = "m2", w.clock.Add(2*time.Hour)
		}, verdict.TooOld},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.run(10, 100, 0)
			w.take(name, p, "10\n")
			before, _ := w.entry(name)
			if err := w.store.Close(); err != nil {
				t.Fatal(err)
			}
			c.happen(w, p)
			w.open()
			e, held := w.entry(name)
			if held != (c.reason == "") || w.files.has(name) != held {
				t.Fatalf("held %v as %+v", held, e)
			}
			if held && e.Generation != before.Generation {
				t.Errorf("its generation was %d, is %d", before.Generation, e.Generation)
			}
			kept, err := os.ReadDir(filepath.Join(w.state, reclaimedName))
			if err != nil || (len(kept) == 1) == held {
				t.Errorf("kept %v %v", kept, err)
			}
		})
	}
}

// TestDataIsNeverLost: a data file that was made exclusively stays as it is, unless its
// writer was ended while it wrote: then it is kept aside.
// TestRecoveredIsVerified: a recovered lock is looked at before anybody acts on it, and without that too.
func TestRecoveredIsVerified(t *testing.T) {
	looks := map[string]func(w *world){
		"enter":  func(w *world) { w.store.Enter("gone.lock").Leave() },
		"get":    func(w *world) { w.store.Get("gone.lock") },
		"rename": func(w *world) { from, to := w.store.EnterBoth("z.lock", "gone.lock"); to.Leave(); from.Leave() },
		"verify": func(w *world) { w.store.Verify(func() bool { return false }) },
	}
	for how, look := range looks {
		w := newWorld(t)
		live, dead := w.run(10, 100, 0), w.run(20, 200, 0)
		w.take("live.lock", live, "10\n")
		w.take("gone.lock", live, "10\n")
		w.take("dead.lock", dead, "20\n")
		if err := w.store.Close(); err != nil {
			t.Fatal(err)
		}
		delete(w.files.files, "gone.lock")
		w.end(dead, bootid.ExitSignal, false)
		w.open()
		w.store.Verify(func() bool { return true }) // it was stopped
		if w.store.unverified.Load() != 3 {
			t.Errorf("%d locks are unverified", w.store.unverified.Load())
		}
		look(w)
		if w.store.Holds("gone.lock") || !w.store.Holds("live.lock") {
			t.Errorf("%s: %q are held", how, w.store.Names())
		}
		if how == "verify" && (w.store.Holds("dead.lock") || w.files.files["dead.lock"] != nil || w.store.unverified.Load() != 0) {
			t.Errorf("a dead process's lock is there after all: %q", w.store.Names())
		}
	}
}

func TestDataIsNeverLost(t *testing.T) {
	data := strings.Repeat("data ", 1000)
	for _, c := range []struct {
		name  string
		stays bool
		end   func(*world, bootid.Process, *Descriptor)
	}{
		{"closed, then ended", true, func(w *world, p bootid.Process, d *Descriptor) {
			w.store.Closed(d, w.store.Ending(d))
			w.end(p, bootid.ExitSuccess, true)
		}},
		{"closed, then killed", true, func(w *world, p bootid.Process, d *Descriptor) {
			w.store.Closed(d, w.store.Ending(d))
			w.end(p, bootid.ExitSignal, true)
		}},
		{"closed, and word of it comes after the end", true, func(w *world, p bootid.Process, d *Descriptor) {
			w.end(p, bootid.ExitSuccess, true)
			w.store.Closed(d, w.store.Ending(d))
		}},
		{"closed, then ended in a way the kernel does not tell", true, func(w *world, p bootid.Process, d *Descriptor) {
			w.end(p, bootid.ExitUnknown, true)
			w.store.Closed(d, w.store.Ending(d))
		}},
		{"closed, then a reboot", true, func(w *world, p bootid.Process, d *Descriptor) {
			w.store.Closed(d, w.store.Ending(d))
			w.reboot(p)
		}},
		{"killed with it open", false, func(w *world, p bootid.Process, d *Descriptor) {
			w.mu.Lock()
			w.exiting[p.PID] = true
			w.mu.Unlock()
			w.store.Closed(d, w.store.Ending(d))
			w.end(p, bootid.ExitSignal, true)
		}},
		{"killed with it open, and word of it comes after the end", false, func(w *world, p bootid.Process, d *Descriptor) {
			w.end(p, bootid.ExitSignal, true)
			w.store.Closed(d, w.store.Ending(d))
		}},
		{"a reboot with it open", false, func(w *world, p bootid.Process, d *Descriptor) { w.reboot(p) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.run(10, 100, 0)
			nameLock := w.store.Enter(name)
			d, err := nameLock.Acquire(verdict.KindCreate, p)
			if err != nil {
				t.Fatal(err)
			}
			w.files.put(name, data, w.now())
			nameLock.Leave()
			c.end(w, p, d)
			if visible := w.visible(name); visible != c.stays {
				t.Errorf("visible %v", visible)
			}
			if _, held := w.entry(name); held {
				t.Error("it is still a lock")
			}
			kept := w.store.Reclaimed()
			switch {
			case c.stays && (len(kept) != 0 || w.files.files[name].text != data):
				t.Errorf("kept %v", kept)
			case !c.stays && len(kept) != 1:
				t.Fatalf("kept %v", kept)
			case !c.stays:
				if text, err := os.ReadFile(kept[0].File); err != nil || string(text) != data || kept[0].Name != name {
					t.Errorf("kept %d bytes, %v, %+v", len(text), err, kept[0])
				}
			}
		})
	}
}

func TestEmptyLockOfTheKilledIsStale(t *testing.T) {
	for how, stays := range map[bootid.Exit]bool{bootid.ExitSignal: false, bootid.ExitSuccess: true} {
		w := newWorld(t)
		p, other := w.run(10, 100, 0), w.run(11, 100, 0)
		w.take(name, p, "")
		if w.admitted(name, other) {
			t.Error("an empty lock of a living creator is not protected")
		}
		w.end(p, how, true)
		if w.visible(name) != stays {
			t.Errorf("exit %v: visible %v", how, !stays)
		}
	}
}

// TestPayloadThatNamesAnotherIsNoLock: a process that is not of the writer's family, is another user's,
// has its pid from somebody else, or can hold no lock, is no holder, and the file is a copy.
func TestPayloadThatNamesAnotherIsNoLock(t *testing.T) {
	for what, text := range map[string]string{
		"another": "20\n", "another user's child": "21\n", "no process": "99999\n", "an object": `{"pid":20}`,
		"a kernel thread": "15\n", "process 1": "1\n", "a later process": "22\n",
		"another host": `{"pid":23,"hostname":"there"}`, "another boot": `{"pid":23,"bootId":"` + bootTwo + `"}`,
		"another start time": `{"pid":23,"starttime":99}`, "an earlier time": `{"pid":23,"createdAt":"2023-01-02T00:00:00Z"}`,
		"its own pid of another host": `{"pid":10,"hostname":"there"}`,
	} {
		for _, kind := range []verdict.Kind{verdict.KindCreate, verdict.KindRename, verdict.KindLink} {
			w := newWorld(t)
			p := w.run(10, 100, 1000)
			w.run(20, 100, 1000)
			w.run(21, 100, 1001)
			w.run(15, 15, 1000)
			w.run(1, 1, 1000)
			w.run(22, 200, 1000)
			w.run(23, 100, 1000)
			w.parents = map[int]int{10: 1, 15: 10, 21: 10, 22: 10, 23: 10}
			for _, manager := range []int{1, 15} {
				q := w.processes[manager]
				q.Manager = true
				w.processes[manager] = q
			}
			w.started[22] = w.clock.Add(time.Hour)
			if kind == verdict.KindCreate {
				w.take(name, p, text)
			} else {
				w.make(name, kind, p, Regular, text)
			}
			for _, after := range []func(){func() {}, w.restart, func() { w.end(p, bootid.ExitSignal, true) }, w.restart, func() { w.reboot() }} {
				after()
				if e, held := w.entry(name); !w.visible(name) || held {
					t.Errorf("%s, %s: %+v", what, kind, e)
				}
			}
		}
	}
}

// TestHostOfAProcessThatHasEnded: a copy that has its copier's pid and another host's name stays, also if the
// copier has ended by the time it is read; the lock of a process that had that name is free after its end.
func TestHostOfAProcessThatHasEnded(t *testing.T) {
	const text = `{"pid":10,"hostname":"there"}`
	for _, c := range []struct {
		what               string
		foreign, elsewhere bool // it has that host name, or is in another pid namespace
		read               bool // the text is read while it runs
		stays              bool
	}{
		{"copy", false, false, false, true},
		{"copy that is read", false, false, true, true},
		{"lock of another host name that is read", true, false, true, false},
		{"lock of a container", true, true, false, false},
		{"lock of a container that is read", true, true, true, false},
	} {
		w := newWorld(t)
		script := w.run(10, 100, 0)
		if w.foreign[10] = c.foreign; c.elsewhere {
			script.PIDNamespace = 2
			w.processes[10] = script
		}
		cp := w.run(20, 100, 0)
		cp.PIDNamespace = script.PIDNamespace
		w.processes[20] = cp
		w.parents[20] = 10
		nameLock := w.store.Enter(name)
		d, err := nameLock.Acquire(verdict.KindCreate, cp)
		if err != nil {
			t.Fatal(err)
		}
		w.files.put(name, text, w.now())
		w.store.familyOf(&state{Lock: Lock{Creator: cp}}).isRelated(script) // as when it is opened: its ancestors are known
		nameLock.Leave()
		w.end(cp, bootid.ExitSuccess, false)
		if c.read {
			w.store.Closed(d, false)
			w.entry(name)
			w.visible(name)
		}
		w.end(script, bootid.ExitSignal, true)
		if !c.read {
			w.store.Closed(d, false)
		}
		for _, after := range []func(){func() {}, w.restart} {
			after()
			if visible := w.visible(name); visible != c.stays {
				e, _ := w.entry(name)
				t.Errorf("%s: there %v: %+v", c.what, visible, e)
			}
		}
	}
}

func TestNamedProcessHoldsAfterTheCreator(t *testing.T) {
	for exit, stays := range map[bootid.Exit]bool{bootid.ExitSuccess: true, bootid.ExitFailure: false, bootid.ExitSignal: false, bootid.ExitUnknown: false} {
		w := newWorld(t)
		launcher, daemon, other := w.run(10, 100, 0), w.run(20, 100, 0), w.run(30, 100, 0)
		w.parents[20] = 10
		w.take(name, launcher, "20\n")
		w.entry(name) // has it read
		w.end(launcher, bootid.ExitSuccess, true)
		delete(w.parents, 20)
		if e, _ := w.entry(name); !w.visible(name) || e.Holder.PID != 20 {
			t.Errorf("%+v", e)
		}
		w.restart()
		if e, _ := w.entry(name); e.Holder.PID != 20 || e.Verdict != verdict.Live {
			t.Errorf("after a restart %+v", e)
		}
		w.end(daemon, exit, true)
		for _, after := range []func(){func() {}, w.restart} {
			after()
			if e, _ := w.entry(name); w.visible(name) != stays || stays && (e.Verdict != verdict.Unknown || e.Reason != verdict.Left || !w.admitted(name, other)) {
				t.Errorf("exit %v: %+v", exit, e)
			}
		}
		w.advance(59 * time.Minute)
		if stays {
			w.files.files[name].written = w.clock // a heartbeat
		}
		w.advance(59 * time.Minute)
		if w.visible(name) != stays {
			t.Errorf("exit %v: the heartbeat does not count", exit)
		}
		w.advance(2 * time.Minute)
		if w.visible(name) {
			t.Errorf("exit %v: it is too old", exit)
		}
	}
}

// TestLauncherEndsBeforeItsTextIsRead: whose child was named is known from the write.
func TestLauncherEndsBeforeItsTextIsRead(t *testing.T) {
	w := newWorld(t)
	launcher, daemon := w.run(10, 100, 0), w.run(20, 100, 0)
	w.parents[20] = 10
	nameLock := w.store.Enter(name)
	d, err := nameLock.Acquire(verdict.KindCreate, launcher)
	if err != nil {
		t.Fatal(err)
	}
	w.files.put(name, "20\n", w.now())
	nameLock.Leave()
	w.store.Wrote(d, []byte("20\n"), func() bootid.Process { return launcher })
	w.end(launcher, bootid.ExitSuccess, true)
	delete(w.parents, 20)
	w.store.Closed(d, false)
	if e, _ := w.entry(name); e.Holder.PID != daemon.PID || e.Verdict != verdict.Live {
		t.Errorf("%+v", e)
	}
}

func TestUnidentifiedIsUnknownUntilOld(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.take(name, bootid.Process{}, "7\n")
	if e, _ := w.entry(name); !w.visible(name) || e.Verdict != verdict.Unknown || !w.admitted(name, p) {
		t.Errorf("%+v", e)
	}
	w.advance(2 * time.Hour)
	if w.visible(name) {
		t.Error("it is too old")
	}
}

func TestFamilyIsAncestorsAndDescendants(t *testing.T) {
	w := newWorld(t)
	for pid := 1; pid <= 6; pid++ {
		w.run(pid, 100, 0)
	}
	w.parents = map[int]int{2: 1, 3: 2, 4: 3, 5: 2, 6: 5}
	w.take(name, w.processes[3], "3\n")
	for pid, may := range map[int]bool{1: true, 2: true, 3: true, 4: true, 5: false, 6: false} {
		if w.admitted(name, w.processes[pid]) != may {
			t.Errorf("process %d: may %v", pid, !may)
		}
	}
}

func TestFoundWithoutARecord(t *testing.T) {
	for _, c := range []struct {
		payload string
		age     time.Duration
		visible bool
		held    bool
	}{
		{"10\n", 0, true, true},
		{"99\n", 0, false, false},
		{"77\n", 0, true, false}, // runs in another namespace
		{`{"pid":10,"bootId":"` + bootTwo + `"}`, 0, false, false},
		{`{"pid":10,"bootId":"` + bootOne + `"}`, 0, true, true},
		{`{"pid":10,"starttime":101}`, 0, false, false},
		{`{"pid":0}`, 0, true, false},
		{`{"pid":0}`, 2 * time.Hour, false, false},
		{"10\n", 1_500_000 * time.Second, false, false}, // before this boot
		{"10\n", time.Minute, false, false},             // before 10 was started
		{"data\n", 1_500_000 * time.Second, true, false},
		{"", 1_500_000 * time.Second, true, false},
	} {
		w := newWorld(t)
		w.run(10, 100, 0)
		w.elsewhere[77] = true
		w.files.put(name, c.payload, w.clock.Add(-c.age))
		visible := w.visible(name)
		if _, held := w.entry(name); visible != c.visible || held != c.held {
			t.Errorf("%q, %v old: visible %v, held %v", c.payload, c.age, visible, held)
		}
	}
	w := newWorld(t)
	w.files.shared = true
	w.files.put(name, "99\n", w.clock)
	if !w.visible(name) {
		t.Error("a lock that may be another machine's was judged by this one's pids")
	}
}

func TestMoveTreeCarriesLocksAlong(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	for _, lock := range []string{"a/x.lock", "a/b/y.lock", "ab/z.lock"} {
		w.take(lock, p, "10\n")
	}
	err := w.store.MoveTree(false, func(func(string) NameLock) (string, string, error) {
		for _, lock := range []string{"x.lock", "b/y.lock"} {
			w.files.files["c/"+lock] = w.files.files["a/"+lock]
			delete(w.files.files, "a/"+lock)
		}
		return "a", "c", nil
	})
	if err != nil {
		t.Fatal(err)
	}
	w.restart()
	for lock, held := range map[string]bool{"c/x.lock": true, "c/b/y.lock": true, "ab/z.lock": true, "a/x.lock": false} {
		if _, ok := w.entry(lock); ok != held {
			t.Errorf("%s: held %v", lock, ok)
		}
	}
}

func TestStateDirectoryHasOneOwner(t *testing.T) {
	w := newWorld(t)
	_, err := Open(Options{StateDir: w.state, System: w.machine, Files: w.files, Log: w.log})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("%v", err)
	}
}

// TestOneAcquires: many contend for one name, and one at a time has it.
func TestOneAcquires(t *testing.T) {
	w := newWorld(t)
	w.log.SetOutput(t.Output())
	var inside, turns atomic.Int32
	var all sync.WaitGroup
	for i := range 16 {
		p := w.run(100+i, 100, 0)
		all.Go(func() {
			for range 200 {
				nameLock := w.store.Enter(name)
				d, err := nameLock.Acquire(verdict.KindCreate, p)
				if err == nil {
					w.files.put(name, "", w.now())
				}
				nameLock.Leave()
				if errors.Is(err, ErrExists) {
					continue
				}
				if inside.Add(1) != 1 {
					t.Error("two hold one lock")
				}
				turns.Add(1)
				inside.Add(-1)
				w.store.Closed(d, w.store.Ending(d))
				nameLock = w.store.Enter(name)
				_ = w.files.Remove(name)
				nameLock.Release()
				nameLock.Leave()
			}
		})
	}
	all.Wait()
	if turns.Load() == 0 || len(slices.Collect(w.store.All(func(string) bool { return true }))) != 0 {
		t.Errorf("%d turns, left %v", turns.Load(), slices.Collect(w.store.All(func(string) bool { return true })))
	}
}

// TestLooksWhileTheEndIsTold: a look between the word of a close and that of the end decides
// as everybody does later.
func TestLooksWhileTheEndIsTold(t *testing.T) {
	for range 200 {
		w := newWorld(t)
		p := w.run(10, 100, 0)
		nameLock := w.store.Enter(name)
		d, err := nameLock.Acquire(verdict.KindCreate, p)
		if err != nil {
			t.Fatal(err)
		}
		w.files.put(name, "data\n", w.now())
		nameLock.Leave()
		var looks sync.WaitGroup
		looks.Go(func() {
			for w.visible(name) {
			}
		})
		w.end(p, bootid.ExitSignal, false)
		w.store.Closed(d, w.store.Ending(d))
		if w.visible(name) {
			t.Fatal("it is there")
		}
		looks.Wait()
		w.store.Close()
	}
}
