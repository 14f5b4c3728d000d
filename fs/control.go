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
	"latchfs/fs/channel"
	"latchfs/fs/control"
	"latchfs/lockstore"
)

func isControl(id uint64) bool { return control.Is(id) }

// newControl returns the control directory of f. The store and the mounted directory are known.
func (f *FS) newControl() *control.Dir {
	return control.New(control.Options{
		Locks:             f.locks,
		Access:            f.access,
		Memory:            controlMemory{f.tables},
		Nodes:             f.keptNodes,
		Polls:             f.keptPolls,
		MaxWaitingPerUser: f.options.MaxWaitingPerUser,
		Status:            f.status,
		Metrics:           f.options.Metrics,
		SetLogLevel:       f.options.SetLogLevel,
		Stat:              f.LockFiles().Stat,
		IsLockName:        f.isLockName,
		Caller:            func(in *fuse.InHeader) bootid.Process { return f.caller(in)() },
		OpenedBy:          f.openedBy,
		Undo:              f.undo,
		ReleaseOnce: func(in *fuse.InHeader, release func() error) error {
			released := func(err error) bool { return errors.Is(err, lockstore.ErrNoLock) }
			return f.beginEntry(in, opControl, "").once(release, released)
		},
		NotifyPoll: func(kh uint64) { _ = f.notify(channel.NotifyPoll, kh) }, // it fails if the mount is gone
		Log:        f.log,
	})
}

// status returns what .latchfs/status tells.
func (f *FS) status() control.Status {
	s := f.options.Status
	s.ServerPID, s.DescriptorKeeperPID, s.DiesWithServer = os.Getpid(), f.DescriptorKeeper(), f.bound
	s.Passthrough = !f.noPassthrough.Load()
	s.Inodes, s.Handles, s.Goroutines = f.inodes.size(), f.files.size(), runtime.NumGoroutine()
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
// inodes, with flagControl; their kind is the whole mode.
type controlMemory struct{ *tables }

// NextHandle implements control.Memory.
func (t controlMemory) NextHandle() uint64 { return t.head.nextHandle.Add(1) - 1 }

// AddNode implements control.Memory.
func (t controlMemory) AddNode(dir uint64, name string, mode uint32, request uint64) (uint64, control.NodeRow) {
	text := t.addText(dir, []byte(name))
	if text == 0 {
		return 0, nil
	}
	id, row := control.Dynamic|t.head.nextNode.Add(1)-1, t.inodes.take()
	row.kind = mode
	row.flags.Store(flagControl)
	row.place.Store(text)
	row.lookups.Store(1)
	row.id.Store(id)
	t.counted(request, id)
	return id, controlRow{t.tables, row}
}

// AddPoll implements control.Memory.
func (t controlMemory) AddPoll(fh, kh uint64) (drop func()) {
	row := t.handles.take()
	row.node = kh
	row.bits.Store(bitPolled)
	row.id.Store(fh)
	return t.keptPoll(row).Drop
}

// keptPoll returns the record in a row with bitPolled.
func (t controlMemory) keptPoll(row *handleRow) control.KeptPoll {
	return control.KeptPoll{FH: row.id.Load(), KH: row.node, Drop: func() {
		row.id.Store(0)
		t.handles.give(row)
	}}
}

// keptNode returns the record in a row with flagControl.
func (t controlMemory) keptNode(row *inodeRow) control.KeptNode {
	dir, name := t.text(row.place.Load())
	return control.KeptNode{ID: row.id.Load(), Dir: dir, Name: string(name), Mode: row.kind, Row: controlRow{t.tables, row}}
}

// controlRow is the row of a node of the control directory.
type controlRow struct {
	tables *tables
	row    *inodeRow
}

// Found implements control.NodeRow.
func (r controlRow) Found(request uint64) {
	r.row.lookups.Add(1)
	r.tables.counted(request, r.row.id.Load())
}

// Forget implements control.NodeRow.
func (r controlRow) Forget(lookups uint64) (left uint64) {
	left = r.row.lookups.Load()
	left -= min(lookups, left)
	r.row.lookups.Store(left)
	return left
}

// Drop implements control.NodeRow.
func (r controlRow) Drop() {
	r.row.id.Store(0)
	r.tables.dropText(r.row.place.Load())
	r.tables.inodes.give(r.row)
}

// Requests yields each kind of request that this server has received, and how many it has received.
func (f *FS) Requests() iter.Seq2[string, uint64] {
	if s := f.served.Load(); s != nil {
		return s.Requests()
	}
	return func(func(string, uint64) bool) {}
}

// Inodes returns the number of files and directories that the kernel knows.
func (f *FS) Inodes() int { return f.inodes.size() }

// EventReaders returns the number of open event streams.
func (f *FS) EventReaders() int { return f.control.EventReaders() }

// LimitRefusals returns how often a user was refused another event stream or wait (Options.MaxWaitingPerUser).
func (f *FS) LimitRefusals() uint64 { return f.control.LimitRefusals() }
