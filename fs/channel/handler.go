//go:build linux

package channel

import "github.com/hanwen/go-fuse/v2/fuse"

// Handler carries out requests. An implementation must not embed a default RawFileSystem: then a method that is
// missing, or that go-fuse adds, is a compile error. Methods are called from many goroutines at once. They must not wait
// for another process: a read that has to is answered later.
type Handler interface {
	fuse.RawFileSystem

	// AnswersLater reports whether ReadLater is to be called for reads of a node.
	AnswersLater(nodeID uint64) bool
	// ReadLater carries out a read that may have to wait for an event. It arranges for one call of reply, at once or
	// later, and returns how to give the read up; reply is called then too. It returns nil, and does not call reply,
	// if Read is to answer.
	ReadLater(in *fuse.ReadIn, reply func(text []byte, code fuse.Status)) (cancel func())
	// Poll returns the events that a file is ready for. If there are none and in.Flags has PollSchedule, the handler
	// sends NotifyPoll with in.Kh once there are.
	Poll(in *PollIn) (ready uint32, code fuse.Status)
	// MayDefer reports whether the RELEASE of a file handle may be carried out after the next request of the thread
	// tid, which sent the request before.
	MayDefer(fh uint64, tid uint32) bool

	// Refuses reports whether a request is to be answered EIO without being carried out.
	Refuses(unique uint64) bool
	// Panicked is called after a request made the handler panic, with the panic's value and stack. If it returns, the
	// request is answered EIO.
	Panicked(unique uint64, problem any, stack []byte)
}

// PollIn is a POLL request, struct fuse_poll_in of linux/fuse.h after its header.
type PollIn struct {
	fuse.InHeader
	Fh, Kh        uint64 // Kh is the kernel's number of the file, for NotifyPoll
	Flags, Events uint32
}

// PollSchedule is FUSE_POLL_SCHEDULE_NOTIFY in PollIn.Flags: somebody waits for the notification.
const PollSchedule = 1

type pollOut struct{ Revents, Padding uint32 }
