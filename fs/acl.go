//go:build linux

package fs

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The access ACL of a file, and the default ACL of a directory, which replaces the umask (acl(5)).
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// settledTime is how old a change has to be for its time to tell it from any later one
// (kernels before 6.13 stamp files with the time of the last clock tick).
const settledTime = time.Second

// settled says so of a status change time, in ns of Unix time.
func settled(changed int64) bool { return time.Now().UnixNano()-changed >= int64(settledTime) }

// cacheLifetime is how long the kernel may answer for entries and attributes itself. All
// changes but those made beneath the mount pass through it. Attributes of a lock are not
// cached: a program that looks with stat(2) before it creates must not see a lock
// between its holder's death and its reap.
const cacheLifetime = time.Second

// aclAbsence remembers that a file has no access ACL. The kernel forgets what it knows of it
// at every READDIRPLUS, so that ls -l asks for each file again; to look beneath through
// /proc is a quarter of what such a request costs. An ACL is not set without a new status
// change time.
type aclAbsence struct {
	mu      sync.Mutex
	changed int64     // status change time when it was last looked up, in ns of Unix time
	at      monotonic // when that was
	known   int64     // the status change time with which it had none
	sets    int32     // how often an attribute may have been set
}

// lookedUp tells of the attributes that the kernel is about to be told.
func (a *aclAbsence) lookedUp(st *unix.Stat_t) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed, a.at = st.Ctim.Nano(), monotonicNow()
}

// set tells that an attribute is about to be set, or was.
func (a *aclAbsence) set() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = 0
	a.sets++
}

// holds says that the file has none, as of a time within the lifetime of what the kernel was told
// of it.
func (a *aclAbsence) holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known != 0 && a.known == a.changed && monotonicNow()-a.at < monotonic(cacheLifetime)
}

// look asks beneath with absent, and remembers if it says so.
func (a *aclAbsence) look(absent func() bool) {
	a.mu.Lock()
	changed, sets := a.changed, a.sets
	a.mu.Unlock()
	if !absent() || !settled(changed) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sets == sets {
		a.known = changed
	}
}

// scanned tells the status change time with which the file was found to have none, 0 if it is not
// known.
func (a *aclAbsence) scanned(changed int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = changed
}
