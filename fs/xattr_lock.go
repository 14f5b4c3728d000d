//go:build linux

package fs

import (
	"strconv"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/control"
)

// lockAttributes is the prefix of the extended attributes that describe a lock. The backing file does not have them, and
// they cannot be set. They are not listed: cp -a, tar and rsync would copy them to files that are no locks.
const lockAttributes = "user.latchfs."

// lockAttributeNames are the names after the prefix, and how the values are made.
var lockAttributeNames = []struct {
	name  string
	value func(control.LockInfo) string
}{
	{"verdict", func(l control.LockInfo) string { return l.Verdict }},
	{"kind", func(l control.LockInfo) string { return l.Kind }},
	{"generation", func(l control.LockInfo) string { return strconv.FormatUint(l.Generation, 10) }},
	{"made", func(l control.LockInfo) string { return l.Made.Format(time.RFC3339Nano) }},
	{"rule", func(l control.LockInfo) string { return l.Rule }},
	{"evidence", func(l control.LockInfo) string { return l.Evidence }},
	{"holder.pid", func(l control.LockInfo) string { return strconv.Itoa(l.Holder.PID) }},
	{"holder.start_time", func(l control.LockInfo) string { return strconv.FormatUint(l.Holder.StartTime, 10) }},
	{"holder.uid", func(l control.LockInfo) string { return strconv.FormatUint(uint64(l.Holder.UID), 10) }},
	{"holder.command", func(l control.LockInfo) string { return l.Holder.Command }},
	{"boot_id", func(l control.LockInfo) string { return l.BootID }},
}

// lockAt returns the lock whose file n is. It reports false if n is no lock.
func (f *FS) lockAt(n *backing.Inode) (control.LockInfo, bool) {
	if n == nil || !n.LockNamed() {
		return control.LockInfo{}, false
	}
	path, ok := f.Inodes.PlacePath(n)
	if !ok {
		return control.LockInfo{}, false
	}
	e, ok := f.locks.Get(path)
	return control.EntryInfo(e), ok
}

// getLockAttribute answers GETXATTR for an attribute with the prefix lockAttributes.
func (f *FS) getLockAttribute(n *backing.Inode, in *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	l, ok := f.lockAt(n)
	// The caller may have reached the file by another link.
	if !ok || in.Uid != 0 && !f.access.Names(f.access.Caller(in), l.Name) {
		return 0, fuse.ENODATA
	}
	for _, a := range lockAttributeNames {
		if name == lockAttributes+a.name {
			return fit(dest, a.value(l))
		}
	}
	return 0, fuse.ENODATA
}

// refuseAttribute answers a request to set an attribute that describes a lock.
func (f *FS) refuseAttribute(in *fuse.InHeader, name string) fuse.Status {
	log := f.log.WithFields(logrus.Fields{"caller": f.caller(in)().String(), "uid": in.Uid, "attribute": name})
	if l, ok := f.lockAt(f.Inodes.Get(in.NodeId)); ok {
		log = log.WithField("path", l.Name)
	}
	log.Warn("refused: attributes that describe a lock cannot be set")
	return fuse.EPERM
}

// fit copies text to dest, which is empty if only the size is asked for.
func fit(dest []byte, text string) (uint32, fuse.Status) {
	if len(dest) > 0 && copy(dest, text) < len(text) {
		return 0, fuse.Status(unix.ERANGE)
	}
	return uint32(len(text)), fuse.OK
}
