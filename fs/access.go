//go:build linux

package fs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// accessor holds the credentials that are checked against the permissions of a directory.
type accessor struct {
	uid    uint32
	groups []uint32
	key    string // tells groups from others
}

// accessor is the caller of a request, while it waits for that.
func (f *FS) accessor(in *fuse.InHeader) accessor {
	a := accessor{uid: in.Uid, groups: []uint32{in.Gid}}
	if in.Uid != 0 {
		// The groups of a caller out of sight are not known.
		groups, _ := f.callers.Groups(int(in.Pid))
		a.groups = append(a.groups, groups...)
		a.key = fmt.Sprint(a.groups)
	}
	return a
}

// mayEnter returns nil if the caller may make files in a directory, EACCES if not, or what its path
// says. The kernel has checked only the permissions of the control file that stands for it.
func (f *FS) mayEnter(in *fuse.InHeader, dir string) error {
	if in.Uid == 0 {
		return nil
	}
	return f.permits(f.accessor(in), dir, unix.W_OK|unix.X_OK)
}

// permits returns nil if a may search the directories on the way to dir and has what is needed of dir itself, EACCES if
// not, or what the path says.
func (f *FS) permits(a accessor, dir string, need uint32) error {
	for {
		fd, err := backing.OpenBeneath(f.Root.FD, dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		_, err = a.permitted(fd, need)
		unix.Close(fd)
		if err != nil || dir == "." {
			return err
		}
		dir, need = path.Dir(dir), unix.X_OK
	}
}

// What is asked of the directory that a name is in, before anything is told of it.
const (
	namesIt = unix.X_OK             // the name is asked for
	listsIt = unix.X_OK | unix.R_OK // it is told the name
)

// sees reports whether a may be told of what is at a name: what it could see in the directory itself. Everything that
// .latchfs, its events and the attributes of locks tell passes here.
func (f *FS) sees(a accessor, name string, need uint32) bool {
	if a.uid == 0 {
		return true
	}
	return f.sights.get(sightKey{a.uid, a.key, path.Dir(name), need}, func(key sightKey) bool { return f.permits(a, key.dir, need) == nil })
}

const (
	// sightLifetime is how long it is remembered what a user may see.
	sightLifetime = backing.Monotonic(100 * time.Millisecond)
	// maxSights is how much of that is remembered.
	maxSights = 10_000
)

// sights remembers for a moment who may see what: a list of a million locks asks the same of each.
type sights struct {
	mu    sync.Mutex
	since backing.Monotonic // of the oldest that is known
	known map[sightKey]bool
}

type sightKey struct {
	uid    uint32
	groups string
	dir    string
	need   uint32
}

func (s *sights) get(key sightKey, ask func(sightKey) bool) bool {
	s.mu.Lock()
	if now := backing.MonotonicNow(); s.known == nil || now-s.since > sightLifetime || len(s.known) >= maxSights {
		s.known, s.since = make(map[sightKey]bool), now
	}
	into := s.known
	is, known := into[key]
	s.mu.Unlock()
	if known {
		return is
	}
	is = ask(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	into[key] = is // no longer than what was known before it was asked
	return is
}

// mayRemove reports whether the caller may remove the name of the file n from its directory. One that is
// out of sight may not, as far as is known.
func (f *FS) mayRemove(in *fuse.InHeader, n *backing.Inode) bool {
	dir := f.Inodes.ParentOf(n)
	if in.Uid == 0 || dir == nil {
		return in.Uid == 0
	}
	a := f.accessor(in)
	of, err := a.permitted(dir.FD, unix.W_OK|unix.X_OK)
	if err != nil || of.Mode&unix.S_ISVTX == 0 || of.Uid == a.uid {
		return err == nil
	}
	st, err := f.Stat(n)
	return err == nil && st.Uid == a.uid
}

// permitted returns the attributes of the directory that fd, an O_PATH descriptor, is open on. The error is
// EACCES if its mode or ACL does not allow what is needed.
func (a accessor) permitted(fd int, need uint32) (unix.Stat_t, error) {
	st, err := backing.StatFD(fd)
	if err != nil || a.uid == 0 {
		return st, err
	}
	acl := make([]byte, 1024)
	size, err := unix.Getxattr(backing.ProcPath(fd), backing.ACLAccess, acl)
	for errors.Is(err, unix.ERANGE) && len(acl) < 1<<16 {
		acl = make([]byte, 2*len(acl))
		size, err = unix.Getxattr(backing.ProcPath(fd), backing.ACLAccess, acl)
	}
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		err = nil
		if !a.mode(&st, need) {
			err = unix.EACCES
		}
	case err == nil && !a.acl(acl[:size], &st, need):
		err = unix.EACCES
	}
	return st, err
}

// mode reports whether the mode of a file allows what is needed.
func (a accessor) mode(st *unix.Stat_t, need uint32) bool {
	mode := st.Mode
	switch {
	case st.Uid == a.uid:
		mode >>= 6
	case slices.Contains(a.groups, st.Gid):
		mode >>= 3
	}
	return mode&need == need
}

// The tags of an ACL's entries (linux/posix_acl.h).
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// acl reports whether an access ACL, as its attribute has it (linux/posix_acl_xattr.h), allows what is
// needed, by the algorithm of acl(5).
func (a accessor) acl(text []byte, st *unix.Stat_t, need uint32) bool {
	const header, size = 4, 8
	mask := uint32(0o7)
	type entry struct {
		tag      uint16
		perm, id uint32
	}
	var entries []entry
	for ; len(text) >= header+size; text = text[size:] {
		e := entry{
			binary.LittleEndian.Uint16(text[header:]), uint32(binary.LittleEndian.Uint16(text[header+2:])),
			binary.LittleEndian.Uint32(text[header+4:]),
		}
		if e.tag == aclMask {
			mask = e.perm
		}
		entries = append(entries, e)
	}
	inGroup := false
	for _, e := range entries {
		switch {
		case e.tag == aclUserObj && st.Uid == a.uid:
			return e.perm&need == need
		case e.tag == aclUser && e.id == a.uid:
			return e.perm&mask&need == need
		case e.tag == aclGroupObj && slices.Contains(a.groups, st.Gid), e.tag == aclGroup && slices.Contains(a.groups, e.id):
			if inGroup = true; e.perm&mask&need == need {
				return true
			}
		case e.tag == aclOther && !inGroup:
			return e.perm&need == need
		}
	}
	return false
}
