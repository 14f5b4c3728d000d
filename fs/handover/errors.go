package handover

import "errors"

// Errors that say why a server cannot go on with the mount of a dead one.
var (
	// ErrTables: the tables have another format version.
	ErrTables = errors.New("the tables of the running server are of another format version")
	// ErrNoDescriptorKeeper: the descriptor keeper has ended too, and the mount with it.
	ErrNoDescriptorKeeper = errors.New("the descriptor keeper of the dead server has ended too")
)
