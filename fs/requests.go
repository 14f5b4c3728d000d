//go:build linux

package fs

import (
	"fmt"
	"os"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/channel"
)

// FS implements channel.Handler in files by subject: lookup.go, attr.go, xattr.go, create.go, remove.go, file.go and
// dir.go. This file has the questions of the loop and the requests that latchfs does not support.
var _ channel.Handler = (*FS)(nil)

func (f *FS) String() string    { return "latchfs" }
func (f *FS) SetDebug(bool)     {}
func (f *FS) Init(*fuse.Server) {}
func (f *FS) OnUnmount()        {}

// Access answers ENOSYS: the kernel checks permissions itself (default_permissions).
func (f *FS) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.ENOSYS }

// GetLk, SetLk and SetLkw answer ENOSYS: the kernel keeps the locks of fcntl(2) and flock(2) itself.
func (f *FS) GetLk(<-chan struct{}, *fuse.LkIn, *fuse.LkOut) fuse.Status { return fuse.ENOSYS }
func (f *FS) SetLk(<-chan struct{}, *fuse.LkIn) fuse.Status              { return fuse.ENOSYS }
func (f *FS) SetLkw(<-chan struct{}, *fuse.LkIn) fuse.Status             { return fuse.ENOSYS }

// Write is not called: Writev answers all writes.
func (f *FS) Write(<-chan struct{}, *fuse.WriteIn, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// Ioctl answers ENOSYS, as for a file without ioctls.
func (f *FS) Ioctl(<-chan struct{}, *fuse.IoctlIn, []byte, *fuse.IoctlOut, []byte) fuse.Status {
	return fuse.ENOSYS
}

// AnswersLater implements channel.Handler.
func (f *FS) AnswersLater(nodeID uint64) bool { return isControl(nodeID) }

// ReadLater implements channel.Handler.
func (f *FS) ReadLater(in *fuse.ReadIn, reply func([]byte, fuse.Status)) (cancel func()) {
	return f.control.ReadLater(in, func(text []byte, err error) { reply(text, status(err)) })
}

// Poll implements channel.Handler.
func (f *FS) Poll(in *channel.PollIn) (ready uint32, code fuse.Status) {
	ready, err := f.control.Poll(in)
	return ready, status(err)
}

// MayDefer implements channel.Handler. If the thread is not the one that made a lock, the RELEASE may be the only sign
// of a death, so it is not put off.
func (f *FS) MayDefer(fh uint64, tid uint32) bool {
	h := f.Files.Get(fh)
	return h != nil && (h.Descriptor == nil || h.Descriptor.Creator().PID == int(tid))
}

// ExitPanicked is the exit status of a server whose handler panicked. The next server refuses the request that caused
// the panic, so it can be started at once.
const ExitPanicked = 43

// Refuses implements channel.Handler: it reports whether the request made an earlier server panic.
func (f *FS) Refuses(unique uint64) bool {
	return f.Tables.Head.Poison.Load() == unique&^backing.UniqueResent
}

// Panicked implements channel.Handler. A panic may leave the memory of the server inconsistent, but nothing else. So the
// server ends; the kernel sends the request again to the next one, which answers it EIO. The mount survives. If no other
// server can take over, this one goes on.
func (f *FS) Panicked(unique uint64, problem any, stack []byte) {
	f.log.WithField("stack", string(stack)).WithField("panic", fmt.Sprint(problem)).
		Error("a request met a defect of latchfs and is answered EIO; please report this")
	if f.Outlives() {
		f.Tables.Head.Poison.Store(unique &^ backing.UniqueResent)
		os.Exit(ExitPanicked)
	}
}

// heldDir returns the directory of a node id, which the caller releases. It returns nil and the answer if there is none.
func (f *FS) heldDir(id uint64) (*backing.Inode, fuse.Status) {
	dir, err := f.HeldDir(id)
	if dir == nil && err == nil {
		return nil, refuse(id)
	}
	return dir, status(err)
}

// refuse answers a request to change a node that is not in the backing directory: EPERM for control files and the root,
// ESTALE for an unknown node id.
func refuse(id uint64) fuse.Status {
	if isControl(id) || id == fuse.FUSE_ROOT_ID {
		return fuse.EPERM
	}
	return status(unix.ESTALE)
}
