package lockstore

import (
	"errors"

	"latchfs/lockstore/authority"
	"latchfs/lockstore/journal"
)

// The errors of this package. Methods return them wrapped with the name concerned.
var (
	// ErrHeld: the lock is live and the caller is not of its holder's family.
	ErrHeld = errors.New("held by a live process")
	// ErrExists: the name is taken, so it cannot be acquired.
	ErrExists = authority.ErrExists
	// ErrReserved: the name is free, and it is the turn of another process to take it.
	ErrReserved = errors.New("reserved for a process that has waited")
	// ErrInterrupted: a waiter was cancelled.
	ErrInterrupted = errors.New("interrupted")
	// ErrNoLock: there is no lock of that name.
	ErrNoLock = errors.New("no lock of that name")
	// ErrNotOperator: the caller is neither root, nor the owner of the mount, nor the owner of the lock.
	ErrNotOperator = errors.New("only root, the mount's owner or the lock's owner may release it")
	// ErrNoSpace: the journal cannot grow; nothing was acquired.
	ErrNoSpace = authority.ErrNoSpace
	// ErrTooMany: the user has made as many locks as one may have.
	ErrTooMany = errors.New("too many locks of one user")
	// ErrInUse: another latchfs owns the state directory.
	ErrInUse = errors.New("state directory is in use")
	// ErrNotSound: a journal has bytes that are no whole records, or is none.
	ErrNotSound = journal.ErrNotSound
	// ErrNewerFormat: the journal was written by a newer latchfs. Use that one.
	ErrNewerFormat = journal.ErrNewerFormat
)
