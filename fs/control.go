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
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

func isControl(id uint64) bool { return control.Is(id) }

// Node ids of inodes begin after those of the control directory; otherwise this does not compile.
const _ uint = handover.FirstNodeID - control.FirstFree

// newControl returns the control directory of f, with the nodes and polls of a dead server.
func (f *FS) newControl(o Options) *control.Dir {
	return control.New(control.Options{
		Locks:             f.locks,
		Access:            f.access,
		Tables:            f.Tables,
		Nodes:             f.Controls,
		Polls:             f.Polled,
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
	})
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
