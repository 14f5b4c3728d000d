//go:build linux

package backing

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
	if err := d.Tables.TakeOver(d.Keeper, stored != nil); err != nil {
		return err
	}
	d.Device = d.Tables.Descriptor(&d.Tables.Head.Device)
	if stored != nil {
		device, err := unix.FcntlInt(stored.Device.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return err
		}
		d.SetDevice(device)
		if d.ByHandle, err = Reopen(int(stored.Root.Fd()), unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
			return err
		}
	}
	d.takeInodes(stored)
	if d.ByHandle >= 0 {
		unix.Close(d.ByHandle)
		d.ByHandle = -1
	}
	d.takeFiles()
	if d.Root == nil || d.Device < 0 {
		return errors.New("the tables lack the root or the device")
	}
	d.Tables.Activate()
	d.closeLostBacking()
	return nil
}

// takeInodes rebuilds the table of inodes.
func (d *Directory) takeInodes(stored *Stored) {
	t := d.Tables
	used := t.NewUsedTexts()
	known := t.Inodes.Size()
	d.Inodes.byID, d.Inodes.byKey = make(map[uint64]*Inode, known), make(map[FileKey]*Inode, known)
	all := make([]*Inode, 0, known)
	d.found = make([]foundInode, 0, known)
	t.Inodes.Each(func(row *handover.InodeRow) {
		id := row.ID.Load()
		if id == 0 {
			return
		}
		if row.Flags.Load()&handover.FlagControl != 0 {
			used[row.Place.Load()] = true
			d.Controls = append(d.Controls, row)
			return
		}
		n := &Inode{ID: id, Key: FileKey{row.Dev, row.Ino}, Kind: row.Kind, FD: t.Descriptor(&row.FD)}
		n.Row.Store(row)
		if kind, bytes := t.Text(row.Handle); row.Handle != 0 && n.FD < 0 {
			handle := unix.NewFileHandle(int32(kind), bytes)
			n.handle = &handle
		}
		if stored != nil && n.FD < 0 && !d.openStored(n, stored) {
			row.ID.Store(0)
			t.Inodes.Give(row)
			return // a process that has it open gets ESTALE
		}
		used[row.Handle], used[row.Place.Load()] = true, true
		if n.FD >= 0 {
			d.Inodes.descriptors++
		}
		all = append(all, n)
		d.found = append(d.found, foundInode{id, row.Lookups.Load()})
	})
	var filling sync.WaitGroup
	filling.Go(func() {
		for _, n := range all {
			// A later file with the inode number of an earlier one has the higher node id.
			if other := d.Inodes.byKey[n.Key]; other == nil || other.ID < n.ID {
				d.Inodes.byKey[n.Key] = n
			}
		}
	})
	for _, n := range all {
		d.Inodes.byID[n.ID] = n
	}
	filling.Wait()
	d.Root = d.Inodes.byID[fuse.FUSE_ROOT_ID]
	for _, n := range all {
		parent, name := t.Text(n.Row.Load().Place.Load())
		if dir := d.Inodes.byID[parent]; dir != nil {
			n.parent, n.name = dir, string(name)
			if d.IsLockName(n.name) != n.LockNamed() || n.TakenAway() {
				d.unsettled = append(d.unsettled, n)
			}
			continue
		}
		n.setLockNamed(false)
		if n.IsDir() && n != d.Root {
			// The server died while it looked the directory up, or there was no row for its name. The kernel looks it
			// up again.
			d.Inodes.remove(n)
		}
	}
	t.KeepTexts(used)
}

// openStored opens an inode whose descriptor was lost.
func (d *Directory) openStored(n *Inode, stored *Stored) bool {
	var err error
	switch {
	case n.ID == fuse.FUSE_ROOT_ID:
		n.FD, err = reopenPath(int(stored.Root.Fd()))
	case n.handle != nil:
		n.FD, err = d.openHandle(*n.handle)
		n.handle = nil
	default:
		return false
	}
	if err != nil {
		return false
	}
	d.Tables.Set(&n.Row.Load().FD, n.FD)
	return true
}

// SettlePlaces makes the flags of inodes agree with the directory beneath: a kill may have come between the two.
func (d *Directory) SettlePlaces() {
	for _, n := range d.unsettled {
		if n.parent == nil || !d.IsLockName(n.name) {
			n.setLockNamed(false)
			continue
		}
		// A directory that cannot be opened any more has nothing in it.
		_ = d.WithFD(n.parent, func(parent int) error {
			if st, err := StatEntry(parent, n.name); err == nil && n.Is(KeyOf(&st), parent, n.name) {
				n.setLockNamed(true)
				n.SetTakenAway(false)
			}
			return nil
		})
	}
	d.unsettled = nil
}

// takeFiles rebuilds the tables of open files and directories.
func (d *Directory) takeFiles() {
	d.Tables.Handles.Each(func(row *handover.HandleRow) {
		id := row.ID.Load()
		if id == 0 {
			return
		}
		fd, bits := d.Tables.Descriptor(&row.FD), row.Bits.Load()
		if bits&handover.BitPolled != 0 {
			d.Polled = append(d.Polled, row)
			return
		}
		n := d.Inodes.byID[row.Node]
		if n == nil {
			// The kernel has forgotten the inode, so the handle only waits for its RELEASE.
			n = &Inode{FD: -1}
			n.Row.Store(&handover.InodeRow{})
		}
		if bits&handover.BitDirectory != 0 {
			if fd < 0 && (n.FD >= 0 || n.handle != nil) {
				if opened, err := d.Reopen(n, unix.O_RDONLY|unix.O_DIRECTORY); err == nil {
					fd = opened
					d.Tables.Set(&row.FD, fd)
				}
			}
			if fd >= 0 {
				d.Descriptors.Took(row.User)
			}
			d.Dirs.Add(id, &DirHandle{Node: n, Row: row, FD: fd})
			return
		}
		if fd >= 0 {
			d.Descriptors.Took(row.User)
		}
		h := &Handle{
			Node: n, Flags: int(row.Flags), Unique: row.Unique, User: row.User, Row: row, FD: fd,
			Passthrough: bits&handover.BitPassthrough != 0, Direct: bits&handover.BitDirect != 0,
			Family: bits&handover.BitFamily != 0,
		}
		if bits&handover.BitReleased == 0 {
			n.Opens.took(h, row.Backing)
		}
		d.Files.Add(id, h)
	})
}

// closeLostBacking closes the backing ids that no open file has. A dead server had registered them, or was about to
// close them. Each keeps a file from being freed.
func (d *Directory) closeLostBacking() {
	known := make(map[int32]bool)
	var released []int32
	d.Tables.Handles.Each(func(row *handover.HandleRow) {
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
			_ = channel.CloseBacking(d.Device, id)
		}
	}
	// The ids count up. One more tells which ids were given out after the last one that was recorded.
	probe, err := unix.MemfdCreate("latchfs-probe", unix.MFD_CLOEXEC)
	if err != nil {
		return
	}
	defer unix.Close(probe)
	next, err := channel.OpenBacking(d.Device, probe)
	if err != nil {
		return
	}
	for id := d.Tables.Head.LastBacking.Load() + 1; id <= next; id++ {
		if !known[id] {
			_ = channel.CloseBacking(d.Device, id)
		}
	}
	d.Tables.Head.LastBacking.Store(next)
}
