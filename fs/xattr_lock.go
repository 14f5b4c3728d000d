//go:build linux

package fs

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// lockAttributes begins the names of the extended attributes that say of a lock what latchfs knows. They are not
// the file's, and cannot be set. Nor are they listed: cp -a, tar and rsync would copy them to where they are not true.
const lockAttributes = "user.latchfs."

// lockAttributeNames are theirs after that, and how their values are made.
var lockAttributeNames = []struct {
	name  string
	value func(LockInfo) string
}{
	{"verdict", func(l LockInfo) string { return l.Verdict }},
	{"kind", func(l LockInfo) string { return l.Kind }},
	{"generation", func(l LockInfo) string { return strconv.FormatUint(l.Generation, 10) }},
	{"made", func(l LockInfo) string { return l.Made.Format(time.RFC3339Nano) }},
	{"rule", func(l LockInfo) string { return l.Rule }},
	{"evidence", func(l LockInfo) string { return l.Evidence }},
	{"holder.pid", func(l LockInfo) string { return strconv.Itoa(l.Holder.PID) }},
	{"holder.start_time", func(l LockInfo) string { return strconv.FormatUint(l.Holder.StartTime, 10) }},
	{"holder.uid", func(l LockInfo) string { return strconv.FormatUint(uint64(l.Holder.UID), 10) }},
	{"holder.command", func(l LockInfo) string { return l.Holder.Command }},
	{"boot_id", func(l LockInfo) string { return l.BootID }},
}

// lockAt is the lock whose file n is; false if it is none.
func (f *FS) lockAt(n *backing.Inode) (LockInfo, bool) {
	if n == nil || !n.LockNamed() {
		return LockInfo{}, false
	}
	path, ok := f.Inodes.PlacePath(n)
	if !ok {
		return LockInfo{}, false
	}
	e, ok := f.locks.Get(path)
	return entryInfo(e), ok
}

// getLockAttribute answers for one of them.
func (f *FS) getLockAttribute(n *backing.Inode, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	l, ok := f.lockAt(n)
	// The caller may have come to the file by another link.
	if !ok || in.Uid != 0 && !f.sees(f.accessor(in), l.Name, namesIt) {
		return 0, fuse.ENODATA
	}
	for _, a := range lockAttributeNames {
		if name == lockAttributes+a.name {
			return fit(dest, a.value(l))
		}
	}
	return 0, fuse.ENODATA
}

// refuseAttribute answers who would have a lock be something else than it is.
func (f *FS) refuseAttribute(in *fuse.InHeader, name string) fuse.Status {
	log := f.log.WithFields(logrus.Fields{"caller": f.caller(in)().String(), "uid": in.Uid, "attribute": name})
	if l, ok := f.lockAt(f.Inodes.Get(in.NodeId)); ok {
		log = log.WithField("path", l.Name)
	}
	log.Warn("refused: what is known of a lock cannot be set")
	return fuse.EPERM
}

// fit copies text to dest, which is empty if only its size is asked for.
func fit(dest []byte, text string) (uint32, fuse.Status) {
	if len(dest) > 0 && copy(dest, text) < len(text) {
		return 0, fuse.Status(unix.ERANGE)
	}
	return uint32(len(text)), fuse.OK
}
