package lockstore

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// elsewhere is a made-up authority of many hosts. It is in memory and outlives its stores.
type elsewhere struct {
	mu         sync.Mutex
	generation uint64
	locks      map[string]authority.Record
	settled    map[string]authority.Settled
	changed    func(authority.Change)
	calls      []string
	// during is called within every call, without mu. It may be nil.
	during func()
	// uncertain has the next Acquire take effect and not be told so.
	uncertain bool
}

func newElsewhere() *elsewhere {
	return &elsewhere{locks: make(map[string]authority.Record), settled: make(map[string]authority.Settled)}
}

// do carries a call out.
func (e *elsewhere) do(call string, change func() error) error {
	if e.during != nil {
		e.during()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls = append(e.calls, call)
	return change()
}

func (e *elsewhere) Recover(_ context.Context, into authority.Replica) error {
	return e.do("recover", func() error {
		into.Reset(len(e.locks))
		for _, r := range e.locks {
			into.Put(r)
		}
		for name, file := range e.settled {
			into.Settle(name, file)
		}
		return nil
	})
}

func (e *elsewhere) Acquire(_ context.Context, r authority.Record) (generation uint64, err error) {
	err = e.do("acquire", func() error {
		if _, taken := e.locks[r.Name]; taken {
			return authority.ErrExists
		}
		e.generation++
		r.Generation, generation = e.generation, e.generation
		e.locks[r.Name] = r
		if e.uncertain {
			e.uncertain = false
			return authority.ErrUncertain
		}
		return nil
	})
	return generation, err
}

func (e *elsewhere) Next(context.Context) (generation uint64, err error) {
	err = e.do("next", func() error {
		e.generation++
		generation = e.generation
		return nil
	})
	return generation, err
}

func (e *elsewhere) Update(_ context.Context, r authority.Record) error {
	return e.do("update", func() error { e.locks[r.Name] = r; return nil })
}

func (e *elsewhere) Release(_ context.Context, r authority.Record) error {
	return e.do("release", func() error {
		if e.locks[r.Name].Generation == r.Generation {
			delete(e.locks, r.Name)
		}
		return nil
	})
}

func (e *elsewhere) move(m authority.Move) {
	delete(e.locks, m.Name)
	m.Name = m.To
	e.locks[m.To] = m.Record
}

func (e *elsewhere) Move(_ context.Context, m authority.Move) error {
	return e.do("move", func() error { e.move(m); return nil })
}

func (e *elsewhere) MoveTree(_ context.Context, moves []authority.Move) error {
	return e.do("move tree", func() error {
		for _, m := range moves {
			e.move(m)
		}
		return nil
	})
}

func (e *elsewhere) Settle(_ context.Context, name string, file authority.Settled) error {
	return e.do("settle", func() error { e.settled[name] = file; return nil })
}

func (e *elsewhere) Unsettle(_ context.Context, name string, _ authority.Settled) error {
	return e.do("unsettle", func() error { delete(e.settled, name); return nil })
}

// Compact compares what the store has with what it has itself.
func (e *elsewhere) Compact(_ context.Context, from authority.Source) error {
	from.Begin(func() {})
	return e.do("compact", func() error {
		locks := make(map[string]authority.Record)
		_ = from.Records(func(r authority.Record) error { locks[r.Name] = r; return nil })
		if !slices.Equal(slices.Sorted(maps.Keys(locks)), slices.Sorted(maps.Keys(e.locks))) || !maps.Equal(from.SettledFiles(), e.settled) {
			return errors.New("the store has other locks")
		}
		return nil
	})
}

func (e *elsewhere) Sync(context.Context) error {
	return e.do("sync", func() error { return nil })
}

func (e *elsewhere) Watch(_ context.Context, changed func(authority.Change)) error {
	e.changed = changed
	return nil
}

func (e *elsewhere) Status() authority.Status { return authority.Status{} }
func (e *elsewhere) Close() error             { return nil }

// TestAuthorityIsCalledWithoutTheMutex: other callers of the store go on while the authority takes its time, and
// the two agree.
func TestAuthorityIsCalledWithoutTheMutex(t *testing.T) {
	w, e := newWorld(t), newElsewhere()
	w.authority = e
	w.restart()
	e.during = func() { w.store.Count() } // waits for ever if the caller has the store's mutex
	shell, maker := script(w)
	other := w.run(40, 40, 0)
	w.take("d/a.lock", maker, "30\n")
	w.make("d/b.lock", verdict.KindMkdir, maker, Directory, "")
	w.make("furnished.lock", verdict.KindMkdir, maker, Directory, "")
	w.store.Writing("furnished.lock", w.store.Writer(maker, false))
	w.take("copy.lock", maker, "40\n")
	w.visible("copy.lock") // it names another process: it is no lock
	if err := w.store.MoveTree(false, func(func(string) NameLock) (string, string, error) {
		w.files.make("e/a.lock", Regular, "30\n", w.now())
		w.files.make("e/b.lock", Directory, "", w.now())
		return "d", "e", nil
	}); err != nil {
		t.Fatal(err)
	}
	from, to := w.store.EnterBoth("e/a.lock", "e/c.lock")
	from.Move(to)
	to.Leave()
	from.Leave()
	if err := w.store.Compact(); err != nil {
		t.Error(err)
	}
	nameLock := w.store.Enter("e/c.lock")
	nameLock.Release()
	nameLock.Leave()
	nameLock = w.store.Enter("copy.lock")
	nameLock.Look(nil, nil)
	nameLock.Leave()
	w.store.sync()
	for _, call := range []string{"acquire", "update", "release", "move", "move tree", "settle", "unsettle", "compact", "sync"} {
		if !slices.Contains(e.calls, call) {
			t.Errorf("no %s in %v", call, e.calls)
		}
	}
	e.during = nil
	w.end(maker, bootid.ExitSuccess, true)
	w.restart()
	if entry, held := w.entry("e/b.lock"); !held || entry.Holder.PID != shell.PID || w.admitted("e/b.lock", other) {
		t.Errorf("after a restart: %v %+v", held, entry)
	}
}

// TestUncertainAcquisitionIsWithdrawn: a lock that the authority may have recorded is not held, and leaves no
// trace.
func TestUncertainAcquisitionIsWithdrawn(t *testing.T) {
	w, e := newWorld(t), newElsewhere()
	w.authority = e
	w.restart()
	p := w.run(10, 100, 0)
	e.uncertain = true
	nameLock := w.store.Enter(name)
	_, err := nameLock.Acquire(verdict.KindCreate, p)
	nameLock.Leave()
	if !errors.Is(err, authority.ErrUncertain) || w.store.Holds(name) || len(e.locks) != 0 {
		t.Errorf("%v, held %v, recorded %v", err, w.store.Holds(name), e.locks)
	}
	w.take(name, p, "10\n")
}

// TestLockOfAnotherHost: it is there until that host releases it.
func TestLockOfAnotherHost(t *testing.T) {
	w, e := newWorld(t), newElsewhere()
	w.authority = e
	w.restart()
	p := w.run(10, 100, 0)
	theirs := authority.Record{
		Name: name, Kind: verdict.KindCreate, Generation: 7, Made: w.now(), Rule: verdict.RuleCreator,
		Origin:  &authority.Origin{BootID: bootTwo, MachineID: "m2"},
		Creator: &bootid.Process{BootID: bootTwo, PID: 10, StartTime: 100}, Holder: &bootid.Process{BootID: bootTwo, PID: 10, StartTime: 100},
	}
	w.files.put(name, "", w.now())
	e.changed(authority.Change{Record: theirs})
	if entry, held := w.entry(name); !held || entry.Generation != 7 || entry.Verdict != verdict.Unknown {
		t.Errorf("held %v, %+v", held, entry)
	}
	nameLock := w.store.Enter(name)
	if _, err := nameLock.Acquire(verdict.KindCreate, p); !errors.Is(err, ErrExists) {
		t.Errorf("acquired: %v", err)
	}
	nameLock.Leave()
	earlier := theirs
	earlier.Generation = 6
	e.changed(authority.Change{Record: earlier, Released: true})
	if !w.store.Holds(name) {
		t.Error("the release of an earlier lock released it")
	}
	_ = w.files.Remove(name)
	e.changed(authority.Change{Record: theirs, Released: true})
	e.generation = 7
	w.take(name, p, "10\n")
	if entry, _ := w.entry(name); entry.Generation != 8 || slices.Contains(e.calls, "release") {
		t.Errorf("%+v after %v", entry, e.calls)
	}
}
