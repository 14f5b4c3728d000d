//go:build linux

package fs

import (
	"fmt"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// recovery is kept while the store looks at all locks there are, in the order of their names: before anything is
// served, so that nothing is renamed meanwhile.
type recovery struct {
	// dirs are those that nobody uses: each stays open for the next name in it.
	dirs [maxOpenDirs]atomic.Pointer[openDir]

	mu sync.Mutex
	// inPlace are the inodes that were seen where their tables say they are.
	inPlace map[*inode]struct{}
}

// openDir is a directory that one at a time uses.
type openDir struct {
	path string // ends in a slash, or is empty
	fd   int
	seen []*inode // that are inPlace
}

// maxOpenDirs is how many directories stay open.
const maxOpenDirs = 4

func newRecovery() *recovery { return &recovery{inPlace: make(map[*inode]struct{})} }

// take returns the directory at a path, open, until it is given back.
func (r *recovery) take(f *FS, at string) (*openDir, error) {
	for i := range r.dirs {
		switch dir := r.dirs[i].Swap(nil); {
		case dir == nil:
		case dir.path == at:
			return dir, nil
		default:
			r.give(dir)
		}
	}
	fd, err := openBeneath(f.root.fd, at+".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &openDir{path: at, fd: fd}, nil
}

// give gives a directory back. Where it has no place it takes that of the one that has been there longest.
func (r *recovery) give(dir *openDir) {
	for i := range r.dirs {
		if r.dirs[i].CompareAndSwap(nil, dir) {
			return
		}
	}
	for i := range r.dirs {
		if dir = r.dirs[i].Swap(dir); dir == nil {
			return
		}
	}
	r.close(dir)
}

func (r *recovery) close(dir *openDir) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range dir.seen {
		r.inPlace[n] = struct{}{}
	}
	unix.Close(dir.fd)
}

// stat looks at the file at a name, and whether it is the inode that is said to be there.
func (r *recovery) stat(f *FS, name string) (file lockstore.File, err error) {
	at, base := path.Split(name)
	dir, err := r.take(f, at)
	if err != nil {
		return file, fmt.Errorf("%s: %w", name, err)
	}
	defer r.give(dir)
	st, err := statEntry(dir.fd, base)
	if err != nil {
		return file, err
	}
	if n := f.inodes.byKey[keyOf(&st)]; n != nil && n.parent != nil && n.name == base && pathLocked(n.parent, "") == dir.path {
		dir.seen = append(dir.seen, n)
	}
	return fileOf(&st), nil
}

// end closes what is open, and returns inPlace.
func (r *recovery) end() map[*inode]struct{} {
	for i := range r.dirs {
		if dir := r.dirs[i].Swap(nil); dir != nil {
			r.close(dir)
		}
	}
	return r.inPlace
}
