package lockstore

import "time"

// FileID tells files of one boot apart.
type FileID struct {
	Device uint64
	Inode  uint64
}

// File is what the directory beneath says of the file at a lock name.
type File struct {
	ID      FileID
	Regular bool
	Size    int64 // bytes
	UID     uint32
	// Changed is the later of its modification and status change times.
	Changed time.Time
	// Written is its modification time.
	Written time.Time
}

// Files is the directory beneath the mount as the store needs it. Names are lock
// names. Every method but Invalidate is called within the name's section and must
// not enter one.
type Files interface {
	// Stat describes the file at name, or returns an error that is
	// fs.ErrNotExist.
	Stat(name string) (File, error)
	// Read returns at most limit bytes of the file at name.
	Read(name string, limit int) ([]byte, error)
	// Remove unlinks name. That it is gone already is no error.
	Remove(name string) error
	// Invalidate makes the kernel forget what it cached of name. It may wait for
	// requests in the same directory, so it is called outside all sections.
	Invalidate(name string)
	// Local says that no other machine can write to the directory.
	Local() bool
}
