//go:build linux

package fs

import (
	"errors"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
	"latchfs/fs/handover"
)

// takeOver takes the descriptors of a dead server and rebuilds inodes and handles from the rows it left.
func (d *Directory) takeOver(stored *Stored) error {
	if err := d.tables.TakeOver(d.keeper, stored != nil); err != nil {
		return err
	}
	d.device = d.tables.Descriptor(&d.tables.Head.Device)
	if stored != nil {
		device, err := unix.FcntlInt(stored.Device.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d.setDevice(device)
		if d.byHandle, err = reopen(int(stored.Root.Fd()), unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return err
		}
	}
	d.takeInodes(stored)
	if d.byHandle >= 0 {
		unix.Close(d.byHandle)
		d.byHandle = -1
	}
	d.takeFiles()
	if d.root == nil || d.device < 0 {
		return errors.New("the tables lack the root or the device")
	}
	d.tables.Activate()
	d.closeLostBacking()
	return nil
}

// takeInodes rebuilds the table of inodes.
func (d *Directory) takeInodes(stored *Stored) {
	t := d.tables
	used := t.NewUsedTexts()
	known := t.Inodes.Size()
	d.inodes.byID, d.inodes.byKey = make(map[uint64]*inode, known), make(map[fileKey]*inode, known)
	all := make([]*inode, 0, known)
	d.found = make([]foundInode, 0, known)
	t.Inodes.Each(func(row *handover.InodeRow) {
		id := row.ID.Load()
		if id == 0 {
			return
		}
		if row.Flags.Load()&handover.FlagControl != 0 {
			used[row.Place.Load()] = true
			d.controls = append(d.controls, row)
			return
		}
		n := &inode{id: id, key: fileKey{row.Dev, row.Ino}, kind: row.Kind, fd: t.Descriptor(&row.FD)}
		n.row.Store(row)
		if kind, bytes := t.Text(row.Handle); row.Handle != 0 && n.fd < 0 {
			handle := unix.NewFileHandle(int32(kind), bytes)
			n.handle = &handle
		}
		if stored != nil && n.fd < 0 && !d.openStored(n, stored) {
			row.ID.Store(0)
			t.Inodes.Give(row)
			return // a process that has it open gets ESTALE
		}
		used[row.Handle], used[row.Place.Load()] = true, true
		if n.fd >= 0 {
			d.inodes.descriptors++
		}
		all = append(all, n)
		d.found = append(d.found, foundInode{id, row.Lookups.Load()})
	})
	var filling sync.WaitGroup
	filling.Go(func() {
		for _, n := range all {
			// A later file with the inode number of an earlier one has the higher node id.
			if other := d.inodes.byKey[n.key]; other == nil || other.id < n.id {
				d.inodes.byKey[n.key] = n
			}
		}
	})
	for _, n := range all {
		d.inodes.byID[n.id] = n
	}
	filling.Wait()
	d.root = d.inodes.byID[fuse.FUSE_ROOT_ID]
	for _, n := range all {
		parent, name := t.Text(n.row.Load().Place.Load())
		if dir := d.inodes.byID[parent]; dir != nil {
			n.parent, n.name = dir, string(name)
			if d.isLockName(n.name) != n.lockNamed() || n.takenAway() {
				d.unsettled = append(d.unsettled, n)
			}
			continue
		}
		n.setLockNamed(false)
		if n.isDir() && n != d.root {
			// The server died while it looked the directory up, or there was no row for its name. The kernel looks it
			// up again.
			d.inodes.remove(n)
		}
	}
	t.KeepTexts(used)
}

// openStored opens an inode whose descriptor was lost.
func (d *Directory) openStored(n *inode, stored *Stored) bool {
	var err error
	switch {
	case n.id == fuse.FUSE_ROOT_ID:
		n.fd, err = reopenPath(int(stored.Root.Fd()))
	case n.handle != nil:
		n.fd, err = d.openHandle(*n.handle)
		n.handle = nil
	default:
		return false
	}
	if err != nil {
		return false
	}
	d.tables.Set(&n.row.Load().FD, n.fd)
	return true
}

// settlePlaces makes the flags of inodes agree with the directory beneath: a kill may have come between the two.
func (d *Directory) settlePlaces() {
	for _, n := range d.unsettled {
		if n.parent == nil || !d.isLockName(n.name) {
			n.setLockNamed(false)
		} else if st, err := statEntry(n.parent.fd, n.name); err == nil && n.is(keyOf(&st), n.parent.fd, n.name) {
			n.setLockNamed(true)
			n.setTakenAway(false)
		}
	}
	d.unsettled = nil
}

// takeFiles rebuilds the tables of open files and directories.
func (d *Directory) takeFiles() {
	d.tables.Handles.Each(func(row *handover.HandleRow) {
		id := row.ID.Load()
		if id == 0 {
			return
		}
		fd, bits := d.tables.Descriptor(&row.FD), row.Bits.Load()
		if bits&handover.BitPolled != 0 {
			d.polled = append(d.polled, row)
			return
		}
		n := d.inodes.byID[row.Node]
		if n == nil {
			// The kernel has forgotten the inode, so the handle only waits for its RELEASE.
			n = &inode{fd: -1}
			n.row.Store(&handover.InodeRow{})
		}
		d.descriptors.took(row.User)
		if bits&handover.BitDirectory != 0 {
			if fd < 0 && n.fd >= 0 {
				if opened, err := reopen(n.fd, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
					fd = opened
					d.tables.Set(&row.FD, fd)
				}
			}
			d.dirs.add(id, &dirHandle{node: n, row: row, fd: fd})
			return
		}
		h := &handle{
			node: n, flags: int(row.Flags), unique: row.Unique, user: row.User, row: row, fd: fd,
			passthrough: bits&handover.BitPassthrough != 0, direct: bits&handover.BitDirect != 0, family: bits&handover.BitFamily != 0,
		}
		if bits&handover.BitReleased == 0 {
			n.opens.took(h, row.Backing)
		}
		d.files.add(id, h)
	})
}

// closeLostBacking closes the backing ids that no open file has. A dead server had registered them, or was about to
// close them. Each keeps a file from being freed.
func (d *Directory) closeLostBacking() {
	known := make(map[int32]bool)
	var released []int32
	d.tables.Handles.Each(func(row *handover.HandleRow) {
		if row.ID.Load() == 0 || row.Bits.Load()&handover.BitPassthrough == 0 {
			return
		}
		if row.Bits.Load()&handover.BitReleased != 0 {
			released = append(released, row.Backing)
		} else {
			known[row.Backing] = true
		}
	})
	for _, id := range released {
		if !known[id] {
			_ = channel.CloseBacking(d.device, id)
		}
	}
	// The ids count up. One more tells which ids were given out after the last one that was recorded.
	probe, err := unix.MemfdCreate("latchfs-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(probe)
	next, err := channel.OpenBacking(d.device, probe)
	if err != nil {
		return
	}
	for id := d.tables.Head.LastBacking.Load() + 1; id <= next; id++ {
		if !known[id] {
			_ = channel.CloseBacking(d.device, id)
		}
	}
	d.tables.Head.LastBacking.Store(next)
}
