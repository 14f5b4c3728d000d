//go:build linux

package backing

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The access ACL of a file, and the default ACL of a directory, which replaces the umask (acl(5)).
const (
	ACLAccess  = "system.posix_acl_access"
	ACLDefault = "system.posix_acl_default"
)

// settledTime is how old a change has to be for its time to tell it from any later one
// (kernels before 6.13 stamp files with the time of the last clock tick).
const settledTime = time.Second

// Settled says so of a status change time, in ns of Unix time.
func Settled(changed int64) bool { return time.Now().UnixNano()-changed >= int64(settledTime) }

// CacheLifetime is how long the kernel may answer for entries and attributes itself. All
// changes but those made beneath the mount pass through it. Attributes of a lock are not
// cached: a program that looks with stat(2) before it creates must not see a lock
// between its holder's death and its reap.
const CacheLifetime = time.Second

// aclAbsence remembers that a file has no access ACL. The kernel forgets what it knows of it
// at every READDIRPLUS, so that ls -l asks for each file again; to look beneath through
// /proc is a quarter of what such a request costs. An ACL is not set without a new status
// change time.
type aclAbsence struct {
	mu      sync.Mutex
	changed int64     // status change time when it was last looked up, in ns of Unix time
	at      Monotonic // when that was
	known   int64     // the status change time with which it had none
	sets    int32     // how often an attribute may have been set
}

// LookedUp tells of the attributes that the kernel is about to be told.
func (a *aclAbsence) LookedUp(st *unix.Stat_t) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed, a.at = st.Ctim.Nano(), MonotonicNow()
}

// Set tells that an attribute is about to be set, or was.
func (a *aclAbsence) Set() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = 0
	a.sets++
}

// Holds says that the file has none, as of a time within the lifetime of what the kernel was told
// of it.
func (a *aclAbsence) Holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known != 0 && a.known == a.changed && MonotonicNow()-a.at < Monotonic(CacheLifetime)
}

// Look asks beneath with absent, and remembers if it says so.
func (a *aclAbsence) Look(absent func() bool) {
	a.mu.Lock()
	changed, sets := a.changed, a.sets
	a.mu.Unlock()
	if !absent() || !Settled(changed) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sets == sets {
		a.known = changed
	}
}

// Scanned tells the status change time with which the file was found to have none, 0 if it is not
// known.
func (a *aclAbsence) Scanned(changed int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = changed
}
