//go:build linux

package backing

import (
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/fs/handover"
	"latchfs/fs/lockname"
	"latchfs/lockstore"
)

// Options say which directory to open, and how.
type Options struct {
	// Tables are the tables of the mount. If they are those of a server that has died, the directory is taken over.
	Tables *handover.Tables
	// Backing is an open descriptor of the directory to serve. It is nil if the directory is taken over. Open
	// closes it.
	Backing *os.File
	// Stored are the descriptors of a mount whose keeper has died, nil otherwise.
	Stored *Stored
	// Keeper is the process that starts another server should this one die, 0 if there is none.
	Keeper int
	// Storable says that the keeper may die too, and with it all descriptors but those of Stored.
	Storable bool
	// LockPatterns say which names are locks.
	LockPatterns lockname.Patterns
	// Reaped is told of each file that the store removes: its path in the mount, its node id, or 0 if the kernel does
	// not know it, and whether it is a directory. It may be nil.
	Reaped func(path string, node uint64, directory bool)
	// Log receives what happens to the directory as a whole.
	Log logrus.FieldLogger
}

// Stored are the descriptors of a mount that a service manager kept when its keeper died (FDSTORE in sd_notify(3)),
// beside the tables.
type Stored struct {
	Device *os.File // /dev/fuse
	Root   *os.File // the backing directory
}

// Directory is the backing directory and what the kernel knows of it: inodes, open files, and the connection by which
// the kernel is notified.
type Directory struct {
	Tables   *handover.Tables
	Keeper   int  // pid of the process that starts another server, 0 if there is none
	storable bool // inodes have their file handles recorded: descriptors may be lost with the keeper
	Device   int  // descriptor of the connection to the kernel; -1 before the mount

	Root        *Inode
	Inodes      *inodes
	Files       handles[*Handle]
	Dirs        handles[*DirHandle]
	Descriptors descriptors

	Local            bool // no other machine can write to the directory
	ByHandle         int  // the descriptor by which files are opened by handle, -1 if that is impossible
	unlinkedByHandle bool // open files without a name can be opened by handle, too
	recent           recent
	lockPatterns     lockname.Patterns
	reapedFile       func(path string, node uint64, directory bool) // Options.Reaped
	log              logrus.FieldLogger

	NoPassthrough atomic.Bool  // the kernel refused a passthrough descriptor, or must not be asked
	pruning       atomic.Bool  // the kernel is being asked to forget inodes
	cannotPrune   atomic.Bool  // the kernel was asked and refused
	prunedInVain  atomic.Int64 // when it last forgot too few, as MonotonicNow

	found     []foundInode // the inodes that were taken over, until Sweep
	unsettled []*Inode     // those whose flags may be wrong, until SettlePlaces
	// Controls and Polled are the rows that were taken over of files of .latchfs, and of those that are polled.
	Controls []*handover.InodeRow
	Polled   []*handover.HandleRow
}

// Open opens a directory, or takes over the directory of a server that has died.
func Open(o Options) (*Directory, error) {
	d := &Directory{
		Tables: o.Tables, Keeper: o.Keeper, storable: o.Storable, Device: -1, Inodes: newInodes(o.Tables),
		lockPatterns: o.LockPatterns, reapedFile: o.Reaped, log: o.Log, ByHandle: -1,
	}
	var err error
	if d.Resumed() {
		err = d.takeOver(o.Stored)
	} else {
		err = d.takeBacking(o.Backing)
	}
	if err != nil {
		return nil, err
	}
	d.Local = isLocal(d.Root.FD)
	d.probeHandles()
	return d, nil
}

// takeBacking makes the backing directory the root.
func (d *Directory) takeBacking(backing *os.File) error {
	fd, err := reopenPath(int(backing.Fd()))
	if err != nil {
		return fmt.Errorf("%s: %w", backing.Name(), err)
	}
	backing.Close()
	st, err := StatFD(fd)
	if err != nil {
		return err
	}
	d.Root = &Inode{Key: KeyOf(&st), FD: fd, Kind: unix.S_IFDIR}
	d.Inodes.addRoot(d.Root)
	return nil
}

func reopenPath(fd int) (int, error) {
	return unix.Open(ProcPath(fd), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// isLocal reports whether only this machine can write to the filesystem of fd, as far as its type tells (statfs(2)).
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

// Resumed reports whether the mount outlives its servers: the directory was taken over, or Outlive has succeeded.
func (d *Directory) Resumed() bool { return d.Tables.Active() }

// Stored returns the descriptors of Stored. The caller does not close them.
func (d *Directory) Stored() (device, root int) { return d.Device, d.Root.FD }

// DescriptorKeeper returns the pid of the process that keeps this server's descriptors open, 0 if there is none.
func (d *Directory) DescriptorKeeper() int { return d.Tables.KeeperPID() }

// IsLockName reports whether a name, the last component of a path, is that of a lock.
func (d *Directory) IsLockName(name string) bool { return d.lockPatterns.Match(name) }

// SetDevice records the connection to the kernel.
func (d *Directory) SetDevice(device int) {
	d.Device = device
	d.Tables.Set(&d.Tables.Head.Device, device)
}

// Outlive makes the mount outlive this server.
func (d *Directory) Outlive() error {
	if err := d.Tables.StartKeeper(d.Keeper); err != nil {
		return err
	}
	d.Tables.Activate()
	return nil
}

// Close closes every descriptor. Nothing may be served any more.
func (d *Directory) Close() {
	d.Tables.StopKeeper()
	d.Inodes.close()
	closeFD(d.ByHandle)
	closeFD(d.Device)
	if err := d.Tables.Close(); err != nil {
		d.log.WithError(err).Warn("closing the tables")
	}
}

// OpenLocks returns the generations of the locks whose descriptor a dead server left open.
func (d *Directory) OpenLocks() map[uint64]bool {
	open := make(map[uint64]bool)
	d.Tables.Handles.Each(func(row *handover.HandleRow) {
		if row.ID.Load() != 0 && row.Generation != 0 {
			open[row.Generation] = true
		}
	})
	return open
}

// LocksInTheMaking returns the generations of the locks that a dead server made for requests it may not have answered.
func (d *Directory) LocksInTheMaking() map[uint64]bool {
	making := make(map[uint64]bool)
	for i := range d.Tables.Intents() {
		if generation := i.Generation(); generation != 0 {
			making[generation] = true
		}
	}
	return making
}

// UnfinishedRenames returns the renames that a dead server carried out and did not record.
func (d *Directory) UnfinishedRenames() (renames []lockstore.Rename) {
	for i := range d.Tables.Intents() {
		r, ok := i.Rename()
		if !ok || i.Recorded() {
			continue
		}
		oldDir, _ := d.HeldDir(r.OldDir) // nil if it is gone
		newDir, _ := d.HeldDir(r.NewDir)
		defer oldDir.Release()
		defer newDir.Release()
		if oldDir == nil || newDir == nil || !d.Renamed(r, oldDir, newDir) {
			continue
		}
		d.Moved(newDir, r.NewName)
		exchange := r.Flags&unix.RENAME_EXCHANGE != 0
		if exchange {
			d.Moved(oldDir, r.OldName)
		}
		renames = append(renames, lockstore.Rename{
			Old: d.Inodes.Path(oldDir, r.OldName), New: d.Inodes.Path(newDir, r.NewName), Exchange: exchange,
			Lock: d.IsLockName(r.OldName) && d.IsLockName(r.NewName),
		})
	}
	return renames
}

// Renamed reports whether the rename r was carried out.
func (d *Directory) Renamed(r handover.Rename, oldDir, newDir *Inode) bool {
	key := FileKey{r.Dev, r.Ino}
	st, err := StatEntry(newDir.PathFD(), r.NewName)
	if err != nil || key.Ino == 0 || KeyOf(&st) != key {
		return false
	}
	// If two links to one file are renamed onto each other, both stay.
	st, err = StatEntry(oldDir.PathFD(), r.OldName)
	return err != nil || KeyOf(&st) != key
}
