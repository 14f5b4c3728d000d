//go:build linux

package fs

import (
	"os"
	"path"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/control"
	"latchfs/lockstore"
)

// initial scan judges the files that were at lock names before the mount, while it is in use: mounting
// does not wait for that, and who lists the directory later does not either.
type initialScan struct {
	fs    *FS
	since time.Time // what changed later is judged when it is looked at
	stop  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex           // guards sighted, and done from being waited for while something begins
	sighted map[fileKey]*sighted // until the kernel knows them
}

// sighted is what is kept of a file.
type sighted struct {
	seen  lockstore.CachedJudgment
	noACL int64
}

// mostSighted bounds initial scan.sighted.
const mostSighted = 1 << 16

// scanBatch is how many entries of a directory are read at once.
const scanBatch = 256

func newInitialScan(f *FS) *initialScan {
	return &initialScan{fs: f, since: time.Now(), stop: make(chan struct{}), sighted: map[fileKey]*sighted{}}
}

// start begins it.
func (s *initialScan) start() {
	s.begin(func() {
		// By path, so that a directory is only open while it is read.
		for queue := []string{"."}; len(queue) > 0 && !s.stopped(); queue = queue[1:] {
			queue = append(queue, s.directory(queue[0])...)
		}
		if !s.stopped() {
			s.fs.tables.head.scanned.Store(true)
			s.fs.log.WithField("took", time.Since(s.since).Round(time.Millisecond).String()).
				Debug("judged the lock files from before the mount")
		}
	})
}

// begin does something in the background, unless it has been stopped: the mount may be gone as soon as
// it is there.
func (s *initialScan) begin(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped() {
		s.done.Go(do)
	}
}

// later does something after some time, unless it has been stopped by then.
func (s *initialScan) later(delay time.Duration, do func()) {
	s.begin(func() {
		select {
		case <-s.stop:
		case <-time.After(delay):
			do()
		}
	})
}

// end stops it and waits until it has.
func (s *initialScan) end() {
	s.mu.Lock()
	close(s.stop)
	s.mu.Unlock()
	s.done.Wait()
}

func (s *initialScan) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// directory judges what is in the directory at dir, and returns the directories there. One that
// cannot be read is left to who looks into it.
func (s *initialScan) directory(dir string) (below []string) {
	_ = lockFiles{s.fs}.directory(dir, func(open *os.File) error {
		for !s.stopped() {
			entries, err := open.ReadDir(scanBatch)
			for _, entry := range entries {
				name := path.Join(dir, entry.Name())
				if name == control.Name {
					continue
				}
				if s.fs.isLockName(entry.Name()) {
					s.judge(name)
				}
				if entry.IsDir() {
					below = append(below, name)
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return below
}

func (s *initialScan) judge(name string) {
	nameLock := s.fs.locks.Enter(name)
	defer nameLock.Leave()
	file, n, err := lockFiles{s.fs}.inode(name)
	if err != nil || !file.Changed.Before(s.since) {
		return
	}
	if !s.look(nameLock, &file, n) || n != nil {
		return
	}
	noACL := s.noACL(name, file)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sight(keyOfFile(file)).noACL = noACL
}

// look judges the file at the name whose name lock that is, whose inode is n, nil if the kernel does not know it. It says
// whether the file may be seen.
func (s *initialScan) look(nameLock lockstore.NameLock, file *lockstore.File, n *inode) (visible bool) {
	key := keyOfFile(*file)
	if n != nil {
		return nameLock.Look(file, &n.seen)
	} else if nameLock.Held() {
		return nameLock.Look(file, &lockstore.CachedJudgment{})
	}
	s.mu.Lock()
	found := s.sight(key)
	s.mu.Unlock()
	visible = nameLock.Look(file, &found.seen)
	if !visible {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sighted, key)
	}
	return visible
}

// sight is what is kept of a file that the kernel does not know.
func (s *initialScan) sight(key fileKey) *sighted {
	found := s.sighted[key]
	if found == nil {
		found = &sighted{}
		if len(s.sighted) < mostSighted {
			s.sighted[key] = found
		}
	}
	return found
}

// noACL is the status change time of the file with which it has no access ACL, 0 if not known.
func (s *initialScan) noACL(name string, file lockstore.File) (changed int64) {
	_ = lockFiles{s.fs}.beneath(name, func(dirfd int, base string) error {
		_, err := unix.Lgetxattr(procPath(dirfd)+"/"+base, aclAccess, nil)
		if err != unix.ENODATA || !s.fs.local {
			return err
		}
		st, err := statEntry(dirfd, base)
		if err == nil && fileOf(&st) == file && distinct(st.Ctim.Nano()) {
			changed = st.Ctim.Nano()
		}
		return err
	})
	return changed
}

// take tells what was seen of the file of an inode that the kernel gets to know.
func (s *initialScan) take(n *inode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.sighted[n.key]; found != nil {
		n.seen.TakeOver(&found.seen)
		n.noACL.scanned(found.noACL)
		delete(s.sighted, n.key)
	}
}
