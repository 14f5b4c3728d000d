//go:build linux

// Package access decides what a user may see and change in the backing directory, by its permissions and POSIX ACLs.
// The kernel checks the permissions of files in the mount; control files and the attributes of locks tell about files
// elsewhere, so their readers are checked here.
package access

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// ACL is the extended attribute that holds the access ACL of a file (acl(5)).
const ACL = "system.posix_acl_access"

// User holds the credentials that are checked.
type User struct {
	UID    uint32
	groups []uint32
	key    string // the groups as text
}

// Checker checks users against the directories of one tree.
type Checker struct {
	open   func(dir string) (fd int, err error)
	groups func(tid int) ([]uint32, error)

	// Answers are remembered for KnownLifetime: a list of a million locks asks the same question for each.
	mu    sync.Mutex
	since time.Time // when known was empty
	known map[question]bool
}

const (
	KnownLifetime = 100 * time.Millisecond
	// maxKnown bounds Checker.known.
	maxKnown = 10_000
)

type question struct {
	uid    uint32
	groups string
	dir    string
	need   uint32
}

// New returns a Checker of the tree in which open opens directories with O_PATH, by paths relative to the tree's root.
// Groups returns the supplementary groups of a thread that waits in a system call.
func New(open func(dir string) (fd int, err error), groups func(tid int) ([]uint32, error)) *Checker {
	return &Checker{open: open, groups: groups}
}

// Caller returns the user that sent a request which is not answered yet.
func (c *Checker) Caller(in *fuse.InHeader) User {
	u := User{UID: in.Uid, groups: []uint32{in.Gid}}
	if in.Uid != 0 {
		// The groups of a caller in a pid namespace that is not visible are not known.
		groups, _ := c.groups(int(in.Pid))
		u.groups = append(u.groups, groups...)
		u.key = fmt.Sprint(u.groups)
	}
	return u
}

// MayEnter returns nil if the caller of a request may make files in a directory, EACCES if not, or the error of opening
// the directory.
func (c *Checker) MayEnter(in *fuse.InHeader, dir string) error {
	if in.Uid == 0 {
		return nil
	}
	return c.permits(c.Caller(in), dir, unix.W_OK|unix.X_OK)
}

// permits returns nil if a user may search all ancestors of a directory and the directory allows what is needed. The
// error is EACCES if not, or that of opening a directory.
func (c *Checker) permits(u User, dir string, need uint32) error {
	for {
		fd, err := c.open(dir)
		if err != nil {
			return err
		}
		_, err = u.Permitted(fd, need)
		unix.Close(fd)
		if err != nil || dir == "." {
			return err
		}
		dir, need = path.Dir(dir), unix.X_OK
	}
}

// Names reports whether a user who knows a name may be told about the file of that name, because it could find the file
// in its directory. Everything that control files, events and the attributes of locks tell is checked here or in Lists.
func (c *Checker) Names(u User, name string) bool { return c.may(u, name, unix.X_OK) }

// Lists reports whether a user may be told a name and about its file, because it could list the directory.
func (c *Checker) Lists(u User, name string) bool { return c.may(u, name, unix.X_OK|unix.R_OK) }

func (c *Checker) may(u User, name string, need uint32) bool {
	if u.UID == 0 {
		return true
	}
	q := question{u.UID, u.key, path.Dir(name), need}
	c.mu.Lock()
	if c.known == nil || time.Since(c.since) > KnownLifetime || len(c.known) >= maxKnown {
		c.known, c.since = make(map[question]bool), time.Now()
	}
	known := c.known
	is, ok := known[q]
	c.mu.Unlock()
	if ok {
		return is
	}
	is = c.permits(u, q.dir, need) == nil
	c.mu.Lock()
	defer c.mu.Unlock()
	known[q] = is // it expires with the answers that were known before
	return is
}

// Permitted returns the attributes of the directory that fd, an O_PATH descriptor, is open on. The error is EACCES if
// the directory's mode or ACL does not allow what is needed (unix.R_OK, W_OK, X_OK).
func (u User) Permitted(fd int, need uint32) (st unix.Stat_t, err error) {
	err = unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	if err != nil || u.UID == 0 {
		return st, err
	}
	file := "/proc/self/fd/" + strconv.Itoa(fd)
	acl := make([]byte, 1024)
	size, err := unix.Getxattr(file, ACL, acl)
	for errors.Is(err, unix.ERANGE) && len(acl) < 1<<16 {
		acl = make([]byte, 2*len(acl))
		size, err = unix.Getxattr(file, ACL, acl)
	}
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		err = nil
		if !u.mode(&st, need) {
			err = unix.EACCES
		}
	case err == nil && !u.acl(acl[:size], &st, need):
		err = unix.EACCES
	}
	return st, err
}

// mode reports whether the mode of a directory allows what is needed.
func (u User) mode(st *unix.Stat_t, need uint32) bool {
	mode := st.Mode
	switch {
	case st.Uid == u.UID:
		mode >>= 6
	case slices.Contains(u.groups, st.Gid):
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

// acl reports whether an access ACL allows what is needed, by the algorithm of acl(5). Text is the value of its extended
// attribute (linux/posix_acl_xattr.h).
func (u User) acl(text []byte, st *unix.Stat_t, need uint32) bool {
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
		case e.tag == aclUserObj && st.Uid == u.UID:
			return e.perm&need == need
		case e.tag == aclUser && e.id == u.UID:
			return e.perm&mask&need == need
		case e.tag == aclGroupObj && slices.Contains(u.groups, st.Gid), e.tag == aclGroup && slices.Contains(u.groups, e.id):
			if inGroup = true; e.perm&mask&need == need {
				return true
			}
		case e.tag == aclOther && !inGroup:
			return e.perm&need == need
		}
	}
	return false
}
