package main

import (
	"errors"
	"io/fs"
	"strings"

	latch "latchfs/fs"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// The exit codes of latchfs. docs/operations.md documents them.
const (
	exitFailure   = 1 // any other failure
	exitUsage     = 2 // the command line is wrong
	exitDir       = 3 // DIR is missing or not a directory
	exitMounted   = 4 // DIR is mounted already, or inside another latchfs mount, or not mounted
	exitForbidden = 5 // permission denied
	exitNoFUSE    = 6 // no /dev/fuse, or no fusermount3
	exitState     = 7 // the state directory cannot be used
	exitFormat    = 8 // the journal is of a newer version
	exitBusy      = 9 // the mount is in use, or the lock is held
)

// The exit codes that mount(8) expects of its helpers.
const (
	mountUsage  = 1
	mountFailed = 32
)

// coded is an error that has its own exit code.
type coded struct {
	code int
	err  error
}

func (c coded) Error() string { return c.err.Error() }
func (c coded) Unwrap() error { return c.err }

type usageError struct{ err error }

func (u usageError) Error() string { return u.err.Error() }
func (u usageError) Unwrap() error { return u.err }

// exitCode returns the exit code for err; for a mount helper, the one that mount(8) expects.
func exitCode(err error, helper bool) int {
	var c coded
	var usage usageError
	switch {
	case helper && errors.As(err, &usage):
		return mountUsage
	case helper:
		return mountFailed
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, lockstore.ErrNewerFormat), errors.Is(err, handover.ErrTables), errors.Is(err, latch.ErrNegotiated), errors.Is(err, handover.ErrNoDescriptorKeeper):
		return exitFormat
	case errors.Is(err, lockstore.ErrInUse), errors.Is(err, lockstore.ErrNoSpace):
		return exitState
	case errors.Is(err, fs.ErrPermission):
		return exitForbidden
	}
	return exitFailure
}
