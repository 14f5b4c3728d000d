//go:build linux

package fs

import (
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// recovery is kept while the store looks at all locks there are, in the order of their names: before anything is
// served, so that nothing is renamed meanwhile.
type recovery struct {
	mu   sync.Mutex
	dirs []openDir // that are not in use
	// inPlace are the inodes that were seen where their tables say they are.
	inPlace map[*inode]struct{}
}

// openDir is a directory that stays open for the next name in it.
type openDir struct {
	path string
	fd   int
}

// maxOpenDirs is how many directories stay open; more are looked at at a time by nobody.
const maxOpenDirs = 16

func newRecovery() *recovery { return &recovery{inPlace: make(map[*inode]struct{})} }

// take returns the directory at path, open, until it is given back.
func (r *recovery) take(f *FS, path string) (openDir, error) {
	r.mu.Lock()
	for i, dir := range r.dirs {
		if dir.path == path {
			r.dirs = append(r.dirs[:i], r.dirs[i+1:]...)
			r.mu.Unlock()
			return dir, nil
		}
	}
	r.mu.Unlock()
	fd, err := openBeneath(f.root.fd, strings.TrimSuffix(path, "/"), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return openDir{}, err
	}
	return openDir{path, fd}, nil
}

func (r *recovery) give(dir openDir) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dirs = append(r.dirs, dir); len(r.dirs) > maxOpenDirs {
		unix.Close(r.dirs[0].fd)
		r.dirs = append(r.dirs[:0], r.dirs[1:]...)
	}
}

// saw tells that the file at a name is n, or one the kernel does not know.
func (r *recovery) saw(n *inode, name string) {
	if n == nil || n.parent == nil || pathLocked(n.parent, n.name) != name {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inPlace[n] = struct{}{}
}

// end closes what is open, and returns inPlace.
func (r *recovery) end() map[*inode]struct{} {
	for _, dir := range r.dirs {
		unix.Close(dir.fd)
	}
	return r.inPlace
}
