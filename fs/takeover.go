//go:build linux

package fs

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/channel"
)

// InUse says that tables are those of a mount. It returns ErrTables if they are of another version.
func InUse(tables *os.File) (bool, error) {
	head, unmap, err := mapHead(tables)
	if err != nil {
		return false, err
	}
	defer unmap()
	if head.magic == 0 {
		return false, nil
	}
	return head.active.Load() != 0, head.check()
}

// Resumed says that f goes on with the mount of a server that has died.
func (f *FS) Resumed() bool { return f.tables.head.active.Load() != 0 }

// Stored are the descriptors of a mount that a service manager kept when its keeper died
// (FDSTORE in sd_notify(3)), beside the tables.
type Stored struct {
	Device *os.File // /dev/fuse
	Root   *os.File // the backing directory
}

// Stored returns what is to be stored; the caller does not close it.
func (f *FS) Stored() (device, root int) { return f.device, f.root.fd }

// takeStored readies f to go on without an descriptor keeper: files are opened anew by their handles.
func (f *FS) takeStored(stored *Stored) error {
	// Server and descriptor keeper end with the keeper, if not at the same moment.
	descriptorKeeper := &f.tables.head.descriptorKeepers[f.tables.activeColumn()]
	for _, pid := range []uint64{descriptorKeeper.pid.Load(), descriptorKeeper.server.Load()} {
		if pidfd, err := unix.PidfdOpen(int(pid), 0); err == nil {
			awaitEnd(pidfd)
			unix.Close(pidfd)
		}
	}
	root, err := reopen(int(stored.Root.Fd()), unix.O_RDONLY|unix.O_DIRECTORY)
	f.byHandle = root
	return err
}

// takeOver takes the descriptors of a dead server from its descriptor keeper and rebuilds the tables. The other
// column counts from the moment when all are there; until then a server after this one begins
// again.
func (f *FS) takeOver(stored *Stored) error {
	t := f.tables
	from, to := t.activeColumn(), t.column
	// That of a server that died while it did this.
	if pidfd := openDescriptorKeeper(&t.head.descriptorKeepers[to]); pidfd >= 0 {
		kill(pidfd)
		unix.Close(pidfd)
	}
	t.head.descriptorKeepers[to].pid.Store(0)
	descriptorKeeper := -1
	if stored != nil {
		if err := f.takeStored(stored); err != nil {
			return err
		}
	} else if descriptorKeeper = openDescriptorKeeper(&t.head.descriptorKeepers[from]); descriptorKeeper < 0 {
		return ErrNoDescriptorKeeper
	}
	defer closeFD(descriptorKeeper)

	var failed error
	take := func(pair *descriptorPair) int {
		fd := -1
		if number := int(pair[from].Load()) - 1; number >= 0 && descriptorKeeper >= 0 {
			taken, err := unix.PidfdGetfd(descriptorKeeper, number, 0)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("take descriptor %d: %w", number, err))
			} else {
				fd = taken
			}
		}
		t.set(pair, fd)
		return fd
	}
	// Early, while there is little memory to copy.
	if err := f.startDescriptorKeeper(); err != nil {
		return err
	}
	f.device = take(&t.head.device)
	if stored != nil {
		var err error
		if f.device, err = unix.FcntlInt(stored.Device.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
		t.set(&t.head.device, f.device)
	}
	f.takeInodes(take, stored)
	if f.byHandle > 0 {
		unix.Close(f.byHandle)
	}
	f.takeFiles(take)
	f.inherited = make(map[watchKey]*inheritedWatch)
	t.watches.each(func(row *watchRow) {
		if pid := row.pid.Load(); pid != 0 {
			f.inherited[watchKey{int(pid), row.started}] = &inheritedWatch{row, take(&row.fd)}
		}
	})
	if f.root == nil || f.device < 0 {
		return errors.Join(errors.New("the tables lack the root or the device"), failed)
	}
	if failed != nil {
		return failed
	}
	t.head.active.Store(uint32(to) + 1)
	if descriptorKeeper >= 0 {
		kill(descriptorKeeper) // then the state directory is free
	}
	f.closeLostBacking()
	return nil
}

// takeInodes rebuilds the table of inodes.
func (f *FS) takeInodes(take func(*descriptorPair) int, stored *Stored) {
	t := f.tables
	used := make([]bool, t.head.textsUsed.Load()+1) // texts, by their numbers
	known := int(t.head.inodesUsed.Load())
	f.inodes.byID, f.inodes.byKey = make(map[uint64]*inode, known), make(map[fileKey]*inode, known)
	all := make([]*inode, 0, known)
	f.found = make([]foundInode, 0, known)
	t.inodes.each(func(row *inodeRow) {
		id := row.id.Load()
		if id == 0 {
			return
		}
		if row.flags.Load()&flagControl != 0 {
			used[row.place.Load()] = true
			f.keptNodes = append(f.keptNodes, controlMemory{t}.keptNode(row))
			return
		}
		n := &inode{id: id, key: fileKey{row.dev, row.ino}, kind: row.kind, fd: take(&row.fd)}
		n.row.Store(row)
		if kind, bytes := t.text(row.handle); row.handle != 0 && n.fd < 0 {
			handle := unix.NewFileHandle(int32(kind), bytes)
			n.handle = &handle
		}
		if stored != nil && n.fd < 0 && !f.openStored(n, stored) {
			row.id.Store(0)
			t.inodes.give(row)
			return // who has it open gets ESTALE
		}
		used[row.handle], used[row.place.Load()] = true, true
		if n.fd >= 0 {
			f.inodes.descriptors++
		}
		all = append(all, n)
		f.found = append(f.found, foundInode{id, row.lookups.Load()})
	})
	var filling sync.WaitGroup
	filling.Go(func() {
		for _, n := range all {
			// A later file with the number of an earlier one has the higher id.
			if other := f.inodes.byKey[n.key]; other == nil || other.id < n.id {
				f.inodes.byKey[n.key] = n
			}
		}
	})
	for _, n := range all {
		f.inodes.byID[n.id] = n
	}
	filling.Wait()
	f.root = f.inodes.byID[fuse.FUSE_ROOT_ID]
	for _, n := range all {
		parent, name := t.text(n.row.Load().place.Load())
		if dir := f.inodes.byID[parent]; dir != nil {
			n.parent, n.name = dir, string(name)
			if f.isLockName(n.name) != n.lockNamed() || n.takenAway() {
				f.unsettled = append(f.unsettled, n)
			}
			continue
		}
		n.setLockNamed(false)
		if n.isDir() && n != f.root {
			// It was being looked up, or there was no row for its name: it will be again.
			f.inodes.remove(n)
		}
	}
	t.dropTexts(used)
}

// openStored opens an inode whose descriptor was lost.
func (f *FS) openStored(n *inode, stored *Stored) bool {
	var err error
	switch {
	case n.id == fuse.FUSE_ROOT_ID:
		n.fd, err = reopenPath(int(stored.Root.Fd()))
	case n.handle != nil:
		n.fd, err = f.openHandle(*n.handle)
		n.handle = nil
	default:
		return false
	}
	if err != nil {
		return false
	}
	f.tables.set(&n.row.Load().fd, n.fd)
	return true
}

// settlePlaces makes the flags agree with what is beneath: a kill may have come between the two.
func (f *FS) settlePlaces() {
	for _, n := range f.unsettled {
		if n.parent == nil || !f.isLockName(n.name) {
			n.setLockNamed(false)
		} else if st, err := statEntry(n.parent.fd, n.name); err == nil && n.is(keyOf(&st), n.parent.fd, n.name) {
			n.setLockNamed(true)
			n.setTakenAway(false)
		}
	}
	f.unsettled = nil
}

// takeFiles rebuilds the tables of what is open.
func (f *FS) takeFiles(take func(*descriptorPair) int) {
	f.tables.handles.each(func(row *handleRow) {
		id := row.id.Load()
		if id == 0 {
			return
		}
		fd, bits := take(&row.fd), row.bits.Load()
		if bits&bitPolled != 0 {
			f.keptPolls = append(f.keptPolls, controlMemory{f.tables}.keptPoll(row))
			return
		}
		n := f.inodes.byID[row.node]
		if n == nil {
			// Forgotten, so it only waits for its RELEASE.
			n = &inode{fd: -1}
			n.row.Store(&inodeRow{})
		}
		f.descriptors.took(row.user)
		if bits&bitDirectory != 0 {
			if fd < 0 && n.fd >= 0 {
				if opened, err := reopen(n.fd, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
					fd = opened
					f.tables.set(&row.fd, fd)
				}
			}
			f.dirs.add(id, &dirHandle{node: n, row: row, fd: fd})
			return
		}
		h := &handle{
			node: n, flags: int(row.flags), passthrough: bits&bitPassthrough != 0, direct: bits&bitDirect != 0, family: bits&bitFamily != 0,
			unique: row.unique, user: row.user, row: row, fd: fd,
		}
		if bits&bitReleased == 0 {
			f.countOpen(h, row.backing)
		}
		f.files.add(id, h)
	})
}

// countOpen counts a handle that another server opened.
func (f *FS) countOpen(h *handle, backing int32) {
	o := &h.node.opens
	switch {
	case h.direct:
		o.direct++
	case !h.passthrough:
		o.cached++
	}
	if h.passthrough {
		o.passthrough++
		o.backingID = backing
	}
}

// OpenLocks are the generations of the locks whose descriptor a dead server left open.
func (f *FS) OpenLocks() map[uint64]bool {
	open := make(map[uint64]bool)
	f.tables.handles.each(func(row *handleRow) {
		if row.id.Load() != 0 && row.generation != 0 {
			open[row.generation] = true
		}
	})
	return open
}

// LocksInTheMaking are the generations of the locks that a dead server made for requests it may not have
// answered.
func (f *FS) LocksInTheMaking() map[uint64]bool {
	making := make(map[uint64]bool)
	for i := range f.tables.intents {
		if row := &f.tables.intents[i]; row.unique.Load() != 0 && row.generation.Load() != 0 {
			making[row.generation.Load()] = true
		}
	}
	return making
}

// joinLocks gives the handles that locks were made with their descriptors, and the files at lock names
// those that are writing them.
func (f *FS) joinLocks() {
	descriptors := f.locks.Descriptors()
	f.tables.handles.each(func(row *handleRow) {
		h := f.files.get(row.id.Load())
		if h == nil {
			return
		}
		h.descriptor = descriptors[row.generation]
		if w := row.writer; w.set {
			h.writer = f.locks.Writer(bootid.Process{
				PID: int(w.pid), NSPID: int(w.nspid), UID: w.uid, StartTime: w.started, PIDNamespace: w.namespace,
				Group: int(w.group), Session: int(w.session),
			}, w.mayRemove)
			h.node.seen.WrittenBy(h.writer)
		}
	})
}

// Take implements bootid.Pidfds.
func (f *FS) Take(p bootid.Process) (pidfd int, ok bool) {
	f.watchMu.Lock()
	defer f.watchMu.Unlock()
	w := f.inherited[watchKey{p.PID, p.StartTime}]
	if w == nil || w.pidfd < 0 {
		return -1, false
	}
	pidfd, w.pidfd = w.pidfd, -1
	return pidfd, true
}

// Kept implements bootid.Pidfds.
func (f *FS) Kept(p bootid.Process, pidfd int) (closing func()) {
	f.watchMu.Lock()
	defer f.watchMu.Unlock()
	key := watchKey{p.PID, p.StartTime}
	var row *watchRow
	if w := f.inherited[key]; w != nil && w.pidfd < 0 {
		row = w.row
		f.tables.set(&row.fd, pidfd)
		delete(f.inherited, key)
	} else {
		row = f.tables.watches.take()
		row.started = p.StartTime
		f.tables.set(&row.fd, pidfd)
		row.pid.Store(uint64(p.PID))
	}
	return func() { f.dropWatch(row) }
}

func (f *FS) dropWatch(row *watchRow) {
	row.pid.Store(0)
	f.tables.watches.give(row)
}

// closeInherited closes the pidfds of processes that no lock depends on any more.
func (f *FS) closeInherited() {
	f.watchMu.Lock()
	defer f.watchMu.Unlock()
	for _, w := range f.inherited {
		f.dropWatch(w.row)
		closeFD(w.pidfd)
	}
	clear(f.inherited)
}

// inheritedWatch is a pidfd of a dead server.
type inheritedWatch struct {
	row   *watchRow
	pidfd int // -1 when it was taken
}

// watchKey is a process of one boot.
type watchKey struct {
	pid     int
	started uint64
}

// closeLostBacking closes the backing ids that a dead server had registered, or was about to
// give back, and that no open file has: each keeps a file from being freed.
func (f *FS) closeLostBacking() {
	known := make(map[int32]bool)
	var given []int32
	f.tables.handles.each(func(row *handleRow) {
		if row.id.Load() == 0 || row.bits.Load()&bitPassthrough == 0 {
			return
		}
		if row.bits.Load()&bitReleased != 0 {
			given = append(given, row.backing)
		} else {
			known[row.backing] = true
		}
	})
	for _, id := range given {
		if !known[id] {
			_ = channel.CloseBacking(f.device, id)
		}
	}
	// They count up: one more says which were given out since the last that was written down.
	probe, err := unix.MemfdCreate("latchfs-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(probe)
	next, err := channel.OpenBacking(f.device, probe)
	if err != nil {
		return
	}
	for id := f.tables.head.lastBacking.Load() + 1; id <= next; id++ {
		if !known[id] {
			_ = channel.CloseBacking(f.device, id)
		}
	}
	f.tables.head.lastBacking.Store(next)
}
