// Package authority is what a lock store asks of the place that decides which locks exist: package journal
// decides for one mount of one host; an authority of many hosts fulfils the same interface. It knows neither
// the store nor how a decision about a lock file is made.
//
// Its types: an [Authority] records a [Record] for each lock and gives it a generation; a [Replica] is the
// store's copy, which Recover fills; a [Source] is the copy that Compact reads; a [Settled] is a file that is
// known to be no lock.
package authority

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	// ErrNoSpace: the authority cannot record more; nothing was acquired.
	ErrNoSpace = errors.New("no space for the lock journal")
	// ErrExists: another host has a lock of that name.
	ErrExists = errors.New("lock exists")
	// ErrUncertain: the call may or may not have taken effect, and the authority could not find out.
	ErrUncertain = errors.New("the authority did not say whether it recorded the change")
)

// Authority decides which locks exist, and keeps a record of each for the next store.
//
// The store calls every method without its own mutex. It makes calls about one name one at a time, calls about
// different names at the same time. Every method returns the error of the context when that ends first; unless
// an authority is local, each may also return an error that wraps ErrUncertain.
type Authority interface {
	// Recover fills the store's copy with all that is recorded. It is called once, before any other method.
	Recover(ctx context.Context, into Replica) error
	// Acquire records a lock and returns its generation: a fencing token that is greater than any before. The
	// generation of the record is ignored. It returns ErrExists, or ErrNoSpace rather than take what releases need.
	// If it returns ErrUncertain, the store withdraws the lock with Release, with the generation returned.
	Acquire(ctx context.Context, r Record) (generation uint64, err error)
	// Next returns a generation that no lock has, for a stale file without a record.
	Next(ctx context.Context) (generation uint64, err error)
	// Update records that a lock of that name and generation is as described.
	Update(ctx context.Context, r Record) error
	// Release records that a lock is gone. Generation 0 is any generation that this host may have acquired. A lock
	// that is gone already, or has another generation, is no error.
	Release(ctx context.Context, r Record) error
	// Move records that a lock has another name. Its generation stays.
	Move(ctx context.Context, m Move) error
	// MoveTree records that all locks beneath a renamed directory have other names.
	MoveTree(ctx context.Context, moves []Move) error
	// Settle records that the file of a name is no lock.
	Settle(ctx context.Context, name string, file Settled) error
	// Unsettle records that what Settle recorded of a name is no longer so.
	Unsettle(ctx context.Context, name string, file Settled) error
	// Compact replaces the history by what the source holds. Other calls go on meanwhile.
	Compact(ctx context.Context, from Source) error
	// Sync makes what was recorded survive a crash of the machine.
	Sync(ctx context.Context) error
	// Watch has changed called, one call at a time, for every change that another host makes, until the context
	// ends. It returns at once. The calls come from a goroutine of the authority's own.
	Watch(ctx context.Context, changed func(Change)) error
	// Status describes what is recorded. It does not wait.
	Status() Status
	// Close ends the use of the authority. What is recorded stays.
	Close() error
}

// Replica is the store's copy of what an authority holds, while it is filled.
type Replica interface {
	Source
	// Reset empties the copy and makes room for so many locks.
	Reset(locks int)
	// Put adds a lock, or replaces the lock of the same name.
	Put(r Record)
	// Delete removes the lock of a name if it has that generation.
	Delete(name []byte, generation uint64)
	// Settle adds a file that is no lock.
	Settle(name string, file Settled)
	// Unsettle removes it.
	Unsettle(name []byte)
}

// Source is a copy of what an authority holds, to be read.
type Source interface {
	// Begin calls begin while no change is between the authority and the copy. What the methods below return is
	// the state of any moment since.
	Begin(begin func())
	// Records calls yield with each lock, until yield returns an error.
	Records(yield func(Record) error) error
	// SettledFiles returns the files that are no locks, by name.
	SettledFiles() map[string]Settled
}

// Status describes what an authority has recorded.
type Status struct {
	Size          int64 // of the records, in bytes
	CompactionDue bool  // most of them are history
}

// NoSpace adds ErrNoSpace to an error of the system that says that there is no space.
func NoSpace(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
