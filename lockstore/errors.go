package lockstore

import "errors"

// What the methods of this package return, wrapped with the name concerned.
var (
	// ErrHeld: the lock is live and the caller is not of its holder's family.
	ErrHeld = errors.New("held by a live process")
	// ErrExists: the name is taken, so it cannot be acquired.
	ErrExists = errors.New("lock exists")
	// ErrReserved: the name is free, and it is the turn of another process to take it.
	ErrReserved = errors.New("reserved for who has waited")
	// ErrInterrupted: who waited does not any more.
	ErrInterrupted = errors.New("interrupted")
	// ErrNoLock: there is no lock of that name.
	ErrNoLock = errors.New("no lock of that name")
	// ErrNotOperator: only root, the owner of the mount and the owner of the lock may
	// release it.
	ErrNotOperator = errors.New("only root, the mount's owner or the lock's owner may release it")
	// ErrNoSpace: the journal cannot grow; nothing was acquired.
	ErrNoSpace = errors.New("no space for the lock journal")
	// ErrTooMany: the user has made as many locks as one may have.
	ErrTooMany = errors.New("too many locks of one user")
	// ErrInUse: another latchfs owns the state directory.
	ErrInUse = errors.New("state directory is in use")
	// ErrNewerFormat: the journal was written by a newer latchfs. Use that one.
	ErrNewerFormat = errors.New("journal is of a newer format")
)
