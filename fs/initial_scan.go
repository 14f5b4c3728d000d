//go:build linux

package fs

import (
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/control"
	"latchfs/lockstore"
)

// initialScan judges the files that were at lock names before the mount, while the mount is in use: mounting does not
// wait for it, and neither does a later listing of the directory.
type initialScan struct {
	fs      *FS
	since   time.Time // files that changed later are judged when they are looked at
	stopped func() bool
}

// scanBatch is how many entries of a directory are read at once.
const scanBatch = 256

// run scans the whole directory.
func (s initialScan) run() {
	// The queue holds paths, so that a directory is open only while it is read.
	for queue := []string{"."}; len(queue) > 0 && !s.stopped(); queue = queue[1:] {
		queue = append(queue, s.directory(queue[0])...)
	}
	if !s.stopped() {
		s.fs.Tables.Head.Scanned.Store(true)
		s.fs.log.WithField("took", time.Since(s.since).Round(time.Millisecond).String()).
			Debug("judged the lock files from before the mount")
	}
}

// directory judges the files in the directory dir and returns its subdirectories. If dir cannot be read, its files are
// judged when they are looked at.
func (s initialScan) directory(dir string) (below []string) {
	_ = s.fs.LockFiles().Directory(dir, func(open *os.File) error {
		for !s.stopped() {
			entries, err := open.ReadDir(scanBatch)
			for _, entry := range entries {
				name := path.Join(dir, entry.Name())
				if name == control.Name {
					continue
				}
				if s.fs.IsLockName(entry.Name()) {
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

func (s initialScan) judge(name string) {
	nameLock := s.fs.locks.Enter(name)
	defer nameLock.Leave()
	file, n, err := s.fs.LockFiles().Inode(name)
	if err != nil || !file.Changed.Before(s.since) {
		return
	}
	if !s.fs.judgments.look(nameLock, &file, n) || n != nil {
		return
	}
	if changed := s.withoutACL(name, file); changed != 0 {
		s.fs.absentACLs.add(backing.KeyOfFile(file), changed)
	}
}

// withoutACL returns the status change time at which the file has no access ACL, 0 if that is unknown.
func (s initialScan) withoutACL(name string, file lockstore.File) (changed int64) {
	_ = s.fs.LockFiles().Beneath(name, func(dirfd int, base string) error {
		_, err := unix.Lgetxattr(backing.ProcPath(dirfd)+"/"+base, backing.ACLAccess, nil)
		if err != unix.ENODATA || !s.fs.Local {
			return err
		}
		st, err := backing.StatEntry(dirfd, base)
		if err == nil && backing.FileOf(&st) == file && backing.Distinct(st.Ctim.Nano()) {
			changed = st.Ctim.Nano()
		}
		return err
	})
	return changed
}
