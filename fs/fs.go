//go:build linux

package fs

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/access"
	"latchfs/fs/backing"
	"latchfs/fs/channel"
	"latchfs/fs/control"
	"latchfs/fs/handover"
	"latchfs/fs/inotify"
	"latchfs/lockstore"
)

// Options say how an FS answers requests.
type Options struct {
	// Dir is where the directory is mounted.
	Dir string
	// NoHeartbeat shows all processes the times of live locks as they are.
	NoHeartbeat bool
	// MaxWaitingPerUser is how many streams of events, and how many readers of wait, a user other than root and the
	// mount's owner may have open at a time. 0 is no limit.
	MaxWaitingPerUser int
	// NoPassthrough has all reads and writes go through latchfs, even where the kernel could do without.
	NoPassthrough bool
	// Callers identifies the threads that wait for answers.
	Callers Callers
	// Notifier announces reaped locks.
	Notifier *inotify.Notifier
	// Status describes the daemon, for the control file status.
	Status control.Status
	// Metrics is what the control file metrics says, in Prometheus's text format.
	Metrics func() ([]byte, error)
	// SetLogLevel changes the level of Log.
	SetLogLevel func(level string) error
	// Log receives what happens to the mount as a whole.
	Log logrus.FieldLogger
}

// Callers identifies a thread while it waits in a system call. bootid.Host implements it.
type Callers interface {
	Identify(tid int) (bootid.Process, error)
	Groups(tid int) ([]uint32, error)
	OpenedBy(suffix string) []bootid.Process
}

// FS is the directory as programs see it. It implements channel.Handler, in a file for each kind of request.
type FS struct {
	*backing.Directory

	locks       *lockstore.Store
	dir         string // where it is mounted
	retries     retries
	started     time.Time
	bound       string // why the mount does not outlive this server; "" if it does
	credentials backing.Credentials
	heartbeat   bool
	callers     Callers
	daemon      control.Status // what does not change in .latchfs/status
	log         logrus.FieldLogger
	control     *control.Dir
	access      *access.Checker
	judgments   judgments
	absentACLs  unknownFiles[int64] // the status change time, in ns of Unix time, at which a file had no access ACL
	background  *background
	notifier    *inotify.Notifier
	acls        bool // the backing directory may have default ACLs
	selinux     bool // SELinux is enabled
	usualLocks  usualLocks
	directMmap  bool // files opened without the page cache can be mapped (Linux 6.6)

	served atomic.Pointer[channel.Server] // nil until the mount is connected
}

// New makes an FS of a directory and the store of its locks. It serves nothing until Serve.
func New(dir *backing.Directory, locks *lockstore.Store, o Options) (*FS, error) {
	f := &FS{
		Directory:  dir,
		locks:      locks,
		dir:        o.Dir,
		started:    time.Now(),
		heartbeat:  !o.NoHeartbeat,
		callers:    o.Callers,
		daemon:     o.Status,
		log:        o.Log,
		notifier:   o.Notifier,
		background: newBackground(),
	}
	f.usualLocks.seed = maphash.MakeSeed()
	f.access = f.newAccess()
	f.control = f.newControl(o)
	if o.NoPassthrough {
		f.NoPassthrough.Store(true)
	}
	var err error
	if f.credentials, err = backing.ReadCredentials(); err != nil {
		return nil, err
	}
	_, err = unix.Getxattr(backing.ProcPath(f.Root.FD), backing.ACLDefault, nil)
	f.acls = err == nil || err == unix.ENODATA
	f.selinux = unix.Access("/sys/fs/selinux/enforce", unix.F_OK) == nil
	return f, nil
}

// connected takes note of the capabilities that the kernel offered in INIT.
func (f *FS) connected(offered uint64) {
	f.directMmap = offered&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
	if offered&fuse.CAP_PASSTHROUGH == 0 {
		f.NoPassthrough.Store(true)
	}
	if f.Resumed() {
		return // the first server logged them
	}
	f.log.WithFields(logrus.Fields{
		"passthrough": offered&fuse.CAP_PASSTHROUGH != 0,
		"direct_mmap": f.directMmap,
		"posix_acl":   offered&fuse.CAP_POSIX_ACL != 0,
		"killpriv_v2": offered&fuse.CAP_HANDLE_KILLPRIV_V2 != 0,
	}).Info("what the kernel's FUSE offers")
}

// Outlives reports whether the mount outlives its server.
func (f *FS) Outlives() bool { return f.Tables.Active() }

// joinLocks gives the handles that a dead server opened what the store knows of them: the descriptors with which locks
// were made, and the writers of files at lock names.
func (f *FS) joinLocks() {
	descriptors := f.locks.Descriptors()
	f.Tables.Handles.Each(func(row *handover.HandleRow) {
		h := f.Files.Get(row.ID.Load())
		if h == nil {
			return
		}
		h.Descriptor = descriptors[row.Generation]
		if w := row.Writer; w.Set {
			h.Writer = f.locks.Writer(bootid.Process{
				PID: int(w.PID), NSPID: int(w.NSPID), UID: w.UID, StartTime: w.Started, PIDNamespace: w.Namespace,
				Group: int(w.Group), Session: int(w.Session),
			}, w.MayRemove)
			h.Node.Seen.WrittenBy(h.Writer)
		}
	})
}

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		n = f.Root
	}
	var st unix.Statfs_t
	if err := f.WithFD(n, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize),
	}
	return fuse.OK
}
