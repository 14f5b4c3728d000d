//go:build linux

package backing

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The attributes that hold the access ACL of a file, and the default ACL of a directory, which replaces the umask
// (acl(5)).
const (
	ACLAccess  = "system.posix_acl_access"
	ACLDefault = "system.posix_acl_default"
)

// settledTime is the age at which a change has a time that no later change can have: kernels before 6.13 stamp files
// with the time of the last clock tick.
const settledTime = time.Second

// Settled reports whether a status change time, in ns of Unix time, is so old that no later change can have it.
func Settled(changed int64) bool { return time.Now().UnixNano()-changed >= int64(settledTime) }

// CacheLifetime is how long the kernel may answer for entries and attributes itself. All changes pass through the
// kernel, except those made beneath the mount. The attributes of a lock are not cached: a program that calls stat(2)
// before it creates a lock must not see it between its holder's death and its reap.
const CacheLifetime = time.Second

// aclAbsence remembers that a file has no access ACL. The kernel forgets that at every READDIRPLUS, so that ls -l
// asks for each file again. To look beneath through /proc is a quarter of the cost of such a request. An ACL cannot
// be set without a new status change time.
type aclAbsence struct {
	mu      sync.Mutex
	changed int64     // status change time at the last lookup, in ns of Unix time
	at      Monotonic // time of that lookup
	known   int64     // status change time at which the file had no ACL, 0 if unknown
	sets    int32     // how often an attribute may have been set
}

// LookedUp records the attributes that the kernel is about to be sent.
func (a *aclAbsence) LookedUp(st *unix.Stat_t) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.changed, a.at = st.Ctim.Nano(), MonotonicNow()
}

// Set records that an attribute is about to be set, or was set.
func (a *aclAbsence) Set() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = 0
	a.sets++
}

// Holds reports whether the file had no ACL at some time within the lifetime of the attributes that the kernel was
// sent.
func (a *aclAbsence) Holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known != 0 && a.known == a.changed && MonotonicNow()-a.at < Monotonic(CacheLifetime)
}

// Look calls absent to look beneath, and remembers the result if it is true.
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

// Scanned records the status change time at which the file was found to have no ACL, 0 if it is unknown.
func (a *aclAbsence) Scanned(changed int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = changed
}
