//go:build linux

package backing

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/access"
)

// The extended attributes of the access ACL of a file, and of the default ACL of a directory, which replaces the umask
// (acl(5)).
const (
	ACLAccess  = access.ACL
	ACLDefault = "system.posix_acl_default"
)

// DistinctAfter is the age from which the time of a change differs from that of any later change. Kernels before 6.13
// stamp files with the time of the last clock tick.
const DistinctAfter = time.Second

// Distinct reports whether any later change of a file has another status change time than changed, in ns of Unix time.
func Distinct(changed int64) bool { return time.Now().UnixNano()-changed >= int64(DistinctAfter) }

// CacheLifetime is how long the kernel may cache entries and attributes. All changes but those made beneath the mount
// pass through the kernel's cache. Attributes of a lock are not cached: a program that calls stat(2) before it creates
// a lock must not see one between its holder's death and its reap.
const CacheLifetime = time.Second

// aclAbsence remembers that a file has no access ACL. The kernel forgets this at every READDIRPLUS, so that ls -l asks
// for each file again; reading the ACL of the backing file through /proc is a quarter of the cost of such a request.
// Setting an ACL changes the status change time.
type aclAbsence struct {
	mu      sync.Mutex
	changed int64     // status change time at the last lookup, in ns of Unix time
	at      Monotonic // the time of that lookup
	known   int64     // the status change time with which the file had no ACL; 0 if that is not known
	sets    int32     // how often an attribute may have been set
}

// LookedUp records the attributes that the kernel is about to be told.
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

// Holds reports whether the file is known to have no ACL, as of a time for which the kernel may cache its attributes.
func (a *aclAbsence) Holds() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known != 0 && a.known == a.changed && MonotonicNow()-a.at < Monotonic(CacheLifetime)
}

// Look calls absent, which reports whether the backing file has no ACL, and remembers that it has none.
func (a *aclAbsence) Look(absent func() bool) {
	a.mu.Lock()
	changed, sets := a.changed, a.sets
	a.mu.Unlock()
	if !absent() || !Distinct(changed) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sets == sets {
		a.known = changed
	}
}

// Scanned records the status change time with which the file was found to have no ACL, 0 if that is not known.
func (a *aclAbsence) Scanned(changed int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known = changed
}
