package fs

import "errors"

// Why a server cannot go on with the mount of one that has died.
var (
	// ErrTables: the tables are of another format version.
	ErrTables = errors.New("the tables of the running server are of another format version")
	// ErrNegotiated: the first server agreed with the kernel on something this one does not.
	ErrNegotiated = errors.New("the connection was negotiated by a latchfs that differs from this one")
	// ErrNoDescriptorKeeper: the descriptor keeper has ended too, and the mount with it.
	ErrNoDescriptorKeeper = errors.New("the descriptorKeeper of the dead server has ended too")
)
