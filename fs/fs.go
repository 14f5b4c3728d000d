//go:build linux

package fs

import (
	"fmt"
	"hash/maphash"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/access"
	"latchfs/fs/channel"
	"latchfs/fs/control"
	"latchfs/lockstore"
)

// firstNodeID is the first node id given out; those below are the root's and the
// control directory's.
const firstNodeID = control.FirstFree

// Options are what an FS is made of.
type Options struct {
	// Backing is an open descriptor of the directory to serve. The FS closes it. It is nil if
	// Tables are those of a server that has died.
	Backing *os.File
	// Tables is memory of NewTables. The FS closes it. Nil is memory of its own.
	Tables *os.File
	// Storable says that the keeper may die too, and all descriptors with it but those of Stored.
	Storable bool
	// Stored are what is left of a mount whose keeper has died, nil otherwise.
	Stored *Stored
	// Keeper is the process that starts another server should this one die, 0 if there is none.
	Keeper int
	// LockPatterns say which names are locks.
	LockPatterns Patterns
	// NoHeartbeat leaves the times of live locks as they are to everybody.
	NoHeartbeat bool
	// MaxWaitingPerUser is how many streams of events a user other than root and the mount's owner may have open at a time, and how many
	// readers of wait; 0 is no limit.
	MaxWaitingPerUser int
	// NoPassthrough has all reads and writes come by, even where the kernel could do without.
	NoPassthrough bool
	// Callers knows the threads that wait for us.
	Callers Callers
	// Status is what the control file of that name says of the daemon.
	Status control.Status
	// Notifier starts a process that unlinks names in the mount, so that who watches it hears of locks that were reaped.
	// Nil is that nobody is told.
	Notifier func() (Notifier, error)
	// Metrics is what the control file of that name says, in Prometheus's text format.
	Metrics func() ([]byte, error)
	// SetLogLevel changes the level of Log.
	SetLogLevel func(level string) error
	// Log receives what the mount has to say.
	Log logrus.FieldLogger
}

// Callers tells who a thread is while it waits in a system call; bootid.Host does.
type Callers interface {
	Identify(tid int) (bootid.Process, error)
	Groups(tid int) ([]uint32, error)
	OpenedBy(suffix string) []bootid.Process
}

// FS is the directory as it is served. It implements channel.Handler, a file for each
// kind of request.
type FS struct {
	options     Options
	retries     retries
	tables      *tables
	dir         string // where it is mounted
	keeper      int
	bound       string // why the mount does not outlive this server; "" if it does
	storable    bool   // descriptors may be lost with the keeper: inodes have their file handles written down
	device      int    // of /dev/fuse; -1 before the mount
	root        *inode
	inodes      *inodes
	files       handles[*handle]
	dirs        handles[*dirHandle]
	credentials credentials
	patterns    Patterns
	heartbeat   bool
	callers     Callers
	log         logrus.FieldLogger
	access      *access.Checker
	initialScan *initialScan
	notifier    *notifier
	byHandle    int // a descriptor by which files are opened by handle, -1 if they cannot be
	descriptors descriptors
	pruning     atomic.Bool // the kernel is being asked to forget inodes
	cannotPrune atomic.Bool // it was tried and failed
	local       bool        // no other machine can write to the backing directory
	acls        bool        // the backing directory may have default ACLs
	selinux     bool        // SELinux is enabled

	usualLocks    usualLocks
	noPassthrough atomic.Bool // it was tried and failed
	directMmap    bool        // files opened without the page cache can be mapped (Linux 6.6)

	// found are the inodes that were taken over, unsettled those whose flags may be wrong.
	found     []foundInode
	unsettled []*inode
	// keptNodes and keptPolls are what the control directory takes over.
	keptNodes []control.KeptNode
	keptPolls []control.KeptPoll

	// inherited are pidfds that a dead server watched processes with.
	watchMu   sync.Mutex
	inherited map[watchKey]*inheritedWatch

	// Set before the first request.
	locks   *lockstore.Store
	control *control.Dir
	served  atomic.Pointer[channel.Server] // nil until it is connected
}

// New makes an FS of an open directory. It serves nothing until Serve.
func New(o Options) (*FS, error) {
	f := &FS{
		options:   o,
		keeper:    o.Keeper,
		storable:  o.Storable,
		device:    -1,
		patterns:  o.LockPatterns,
		heartbeat: !o.NoHeartbeat,
		callers:   o.Callers,
		log:       o.Log,
	}
	f.usualLocks.seed = maphash.MakeSeed()
	f.notifier = &notifier{fs: f, start: o.Notifier, queue: make(chan string, maxTombstones), tombstones: make(map[string]*tombstone)}
	var err error
	if o.Tables == nil {
		if o.Tables, err = NewTables(); err != nil {
			return nil, err
		}
	}
	if f.tables, err = openTables(o.Tables); err != nil {
		return nil, err
	}
	f.inodes = newInodes(f.tables)
	f.access = f.newAccess()
	f.noPassthrough.Store(o.NoPassthrough)
	if f.Resumed() {
		err = f.takeOver(o.Stored)
	} else {
		err = f.takeBacking(o.Backing)
	}
	if err != nil {
		return nil, err
	}
	fd := f.root.fd
	f.local = isLocal(fd)
	if f.credentials, err = readCredentials(); err != nil {
		return nil, err
	}
	_, err = unix.Getxattr(procPath(fd), aclDefault, nil)
	f.acls = err == nil || err == unix.ENODATA
	f.selinux = unix.Access("/sys/fs/selinux/enforce", unix.F_OK) == nil
	f.probeHandles()
	f.initialScan = newInitialScan(f)
	return f, nil
}

// takeBacking makes the backing directory the root.
func (f *FS) takeBacking(backing *os.File) error {
	fd, err := reopenPath(int(backing.Fd()))
	if err != nil {
		return fmt.Errorf("%s: %w", backing.Name(), err)
	}
	backing.Close()
	st, err := statFD(fd)
	if err != nil {
		return err
	}
	f.root = &inode{key: keyOf(&st), fd: fd, kind: unix.S_IFDIR}
	f.inodes.addRoot(f.root)
	return nil
}

func reopenPath(fd int) (int, error) {
	return unix.Open(procPath(fd), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// isLocal says that the filesystem beneath is of this machine alone, as far as its type
// tells (statfs(2)).
func isLocal(fd int) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.V9FS_MAGIC, unix.AFS_SUPER_MAGIC, unix.CODA_SUPER_MAGIC,
		0x01161970 /* GFS2 */, 0x7461636f /* OCFS2 */, 0x0bd00bd0 /* Lustre */, 0x47504653 /* GPFS */ :
		return false
	}
	return true
}

// connected takes note of the capabilities that the kernel offered in INIT.
func (f *FS) connected(offered uint64) {
	f.directMmap = offered&fuse.CAP_DIRECT_IO_ALLOW_MMAP != 0
	if offered&fuse.CAP_PASSTHROUGH == 0 {
		f.noPassthrough.Store(true)
	}
	if f.Resumed() {
		return // it was said
	}
	f.log.WithFields(logrus.Fields{
		"passthrough": offered&fuse.CAP_PASSTHROUGH != 0,
		"direct_mmap": f.directMmap,
		"posix_acl":   offered&fuse.CAP_POSIX_ACL != 0,
		"killpriv_v2": offered&fuse.CAP_HANDLE_KILLPRIV_V2 != 0,
	}).Info("what the kernel's FUSE offers")
}

// Close releases every descriptor once nothing is served any more.
func (f *FS) Close() {
	f.stopDescriptorKeeper()
	f.inodes.close()
	closeFD(f.byHandle)
	closeFD(f.device)
	if err := f.tables.close(); err != nil {
		f.log.WithError(err).Warn("closing the tables")
	}
}

// StatFs implements fuse.RawFileSystem.
func (f *FS) StatFs(_ <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	n := f.inodes.get(in.NodeId)
	if n == nil {
		n = f.root
	}
	var st unix.Statfs_t
	if err := f.withFD(n, func(fd int) error { return unix.Fstatfs(fd, &st) }); err != nil {
		return status(err)
	}
	*out = fuse.StatfsOut{
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files, Ffree: st.Ffree,
		Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize),
	}
	return fuse.OK
}
