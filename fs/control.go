//go:build linux

package fs

import (
	"errors"
	"iter"
	"os"
	"path"
	"runtime"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/bootid"
	"latchfs/fs/backing"
	"latchfs/fs/channel"
	"latchfs/fs/control"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

func isControl(id uint64) bool { return control.Is(id) }

// The numbers of the control directory are not those of inodes.
const _ uint = handover.FirstNodeID - control.FirstFree

// newControl returns the control directory of f, with the nodes and polls of a dead server.
func (f *FS) newControl(o Options) *control.Dir {
	memory := controlMemory{f.Tables}
	host := control.Options{
		Locks:             f.locks,
		Access:            f.access,
		Memory:            memory,
		MaxWaitingPerUser: o.MaxWaitingPerUser,
		Status:            f.status,
		Metrics:           o.Metrics,
		SetLogLevel:       o.SetLogLevel,
		Stat:              f.LockFiles().Stat,
		IsLockName:        f.IsLockName,
		Caller:            func(in *fuse.InHeader) bootid.Process { return f.caller(in)() },
		OpenedBy:          f.openedBy,
		Undo:              f.undo,
		ReleaseOnce: func(in *fuse.InHeader, release func() error) error {
			released := func(err error) bool { return errors.Is(err, lockstore.ErrNoLock) }
			return f.beginEntry(in, opControl, "").once(release, released)
		},
		NotifyPoll: func(kh uint64) { _ = f.Notify(channel.NotifyPoll, kh) }, // it fails if the mount is gone
		Log:        f.log,
	}
	for _, row := range f.Controls {
		host.Nodes = append(host.Nodes, memory.keptNode(row))
	}
	for _, row := range f.Polled {
		host.Polls = append(host.Polls, memory.keptPoll(row))
	}
	return control.New(host)
}

// status returns what .latchfs/status tells.
func (f *FS) status() control.Status {
	s := f.daemon
	s.ServerPID, s.DescriptorKeeperPID, s.DiesWithServer = os.Getpid(), f.DescriptorKeeper(), f.bound
	s.Passthrough = !f.NoPassthrough.Load()
	s.Inodes, s.Handles, s.Goroutines = f.Inodes.Size(), f.Files.Size(), runtime.NumGoroutine()
	s.Locks, s.Waiting = f.locks.Count(), f.locks.Waiting()
	return s
}

// openedBy returns the processes that have the file at name open, without latchfs's own.
func (f *FS) openedBy(name string) (processes []bootid.Process) {
	for _, p := range f.callers.OpenedBy(path.Join(f.dir, name)) {
		if p.PID != os.Getpid() && p.PID != f.DescriptorKeeper() {
			processes = append(processes, p)
		}
	}
	return processes
}

// controlMemory keeps the control directory's nodes and polls in the tables. The rows of nodes are among those of
// inodes, with handover.FlagControl; their kind is the whole mode.
type controlMemory struct{ *handover.Tables }

// NextHandle implements control.Memory.
func (t controlMemory) NextHandle() uint64 { return t.Head.NextHandle.Add(1) - 1 }

// AddNode implements control.Memory.
func (t controlMemory) AddNode(dir uint64, name string, mode uint32, request uint64) (uint64, control.NodeRow) {
	text := t.AddText(dir, []byte(name))
	if text == 0 {
		return 0, nil
	}
	id, row := control.Dynamic|t.Head.NextNode.Add(1)-1, t.Inodes.Take()
	row.Kind = mode
	row.Flags.Store(handover.FlagControl)
	row.Place.Store(text)
	row.Lookups.Store(1)
	row.ID.Store(id)
	t.CountLookup(request&^backing.UniqueResent, id)
	return id, controlRow{t.Tables, row}
}

// AddPoll implements control.Memory.
func (t controlMemory) AddPoll(fh, kh uint64) (drop func()) {
	row := t.Handles.Take()
	row.Node = kh
	row.Bits.Store(handover.BitPolled)
	row.ID.Store(fh)
	return t.keptPoll(row).Drop
}

// keptPoll returns the record in a row with handover.BitPolled.
func (t controlMemory) keptPoll(row *handover.HandleRow) control.KeptPoll {
	return control.KeptPoll{FH: row.ID.Load(), KH: row.Node, Drop: func() {
		row.ID.Store(0)
		t.Handles.Give(row)
	}}
}

// keptNode returns the record in a row with handover.FlagControl.
func (t controlMemory) keptNode(row *handover.InodeRow) control.KeptNode {
	dir, name := t.Text(row.Place.Load())
	return control.KeptNode{ID: row.ID.Load(), Dir: dir, Name: string(name), Mode: row.Kind, Row: controlRow{t.Tables, row}}
}

// controlRow is the row of a node of the control directory.
type controlRow struct {
	tables *handover.Tables
	row    *handover.InodeRow
}

// Found implements control.NodeRow.
func (r controlRow) Found(request uint64) {
	r.row.Lookups.Add(1)
	r.tables.CountLookup(request&^backing.UniqueResent, r.row.ID.Load())
}

// Forget implements control.NodeRow.
func (r controlRow) Forget(lookups uint64) (left uint64) {
	left = r.row.Lookups.Load()
	left -= min(lookups, left)
	r.row.Lookups.Store(left)
	return left
}

// Drop implements control.NodeRow.
func (r controlRow) Drop() {
	r.row.ID.Store(0)
	r.tables.DropText(r.row.Place.Load())
	r.tables.Inodes.Give(r.row)
}

// Requests yields each kind of request that this server has received, and how many it has received.
func (f *FS) Requests() iter.Seq2[string, uint64] {
	if s := f.served.Load(); s != nil {
		return s.Requests()
	}
	return func(func(string, uint64) bool) {}
}

// EventReaders returns the number of open event streams.
func (f *FS) EventReaders() int { return f.control.EventReaders() }

// LimitRefusals returns how often a user was refused another event stream or wait (Options.MaxWaitingPerUser).
func (f *FS) LimitRefusals() uint64 { return f.control.LimitRefusals() }
