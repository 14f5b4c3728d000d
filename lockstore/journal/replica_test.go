package journal

import (
	"context"
	"fmt"
	"maps"
	"testing"

	"github.com/sirupsen/logrus"

	"latchfs/lockstore/authority"
)

// replica is an authority.Replica that is a map.
type replica struct {
	locks   map[string]authority.Record
	settled map[string]authority.Settled
}

func (c *replica) Reset(int) {
	c.locks, c.settled = make(map[string]authority.Record), make(map[string]authority.Settled)
}
func (c *replica) Put(r authority.Record) { c.locks[r.Name] = r }
func (c *replica) Delete(name []byte, generation uint64) {
	if c.locks[string(name)].Generation == generation {
		delete(c.locks, string(name))
	}
}
func (c *replica) Settle(name string, file authority.Settled) { c.settled[name] = file }
func (c *replica) Unsettle(name []byte)                       { delete(c.settled, string(name)) }
func (c *replica) Begin(begin func())                         { begin() }
func (c *replica) Records(yield func(authority.Record) error) error {
	for _, r := range c.locks {
		if err := yield(r); err != nil {
			return err
		}
	}
	return nil
}
func (c *replica) SettledFiles() map[string]authority.Settled { return c.settled }

func quiet(t testing.TB) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(t.Output())
	return log
}

// open recovers the journal of a directory.
func open(t testing.TB, dir string) (*Journal, *replica) {
	t.Helper()
	j, c := New(Options{Dir: dir, Log: quiet(t)}), &replica{}
	if err := j.Recover(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	return j, c
}

// TestCompactionKeepsWhatIsAppendedMeanwhile: a compaction writes what the source holds, and each record that is
// appended while it reads the source.
func TestCompactionKeepsWhatIsAppendedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	j, c := open(t, dir)
	take := func(name string) authority.Record {
		r := testRecord()
		r.Name = name
		generation, err := j.Acquire(context.Background(), r)
		if err != nil {
			t.Fatal(err)
		}
		r.Generation = generation
		return r
	}
	for i := range 10 {
		c.Put(take(fmt.Sprintf("%d.lock", i)))
	}
	c.Settle("settled.lock", authority.Settled{Identity: "1", UID: 1000})
	if err := j.Compact(context.Background(), &appending{c, func() {
		take("meanwhile.lock")
		if err := j.Release(context.Background(), c.locks["3.lock"]); err != nil {
			t.Fatal(err)
		}
	}}); err != nil {
		t.Fatal(err)
	}
	want := names(c.locks)
	want["meanwhile.lock"] = 11
	delete(want, "3.lock")
	j.Close()
	j, after := open(t, dir)
	defer j.Close()
	if !maps.Equal(names(after.locks), want) || !maps.Equal(after.settled, c.settled) {
		t.Errorf("%v and %v, want %v and %v", names(after.locks), after.settled, want, c.settled)
	}
	if next, err := j.Next(context.Background()); err != nil || next != 12 {
		t.Errorf("generation %d, %v", next, err)
	}
}

// appending is a source that has something done before it is read.
type appending struct {
	authority.Source
	first func()
}

func (a *appending) Records(yield func(authority.Record) error) error {
	a.first()
	return a.Source.Records(yield)
}
