//go:build linux

package fs

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// guard is an FS for a server. A request that makes a handler panic is answered EIO, and does not take
// the mount down: what the handler left half done is in memory only, so the server ends, and the next
// one, to which the request comes again, answers it. Where no other comes, this one goes on.
type guard struct{ *FS }

// ExitPanicked is the status with which the process of a server ends whose handler panicked. The next
// one does not meet the same again, so it can be started at once.
const ExitPanicked = 43

// do carries a request out.
func (g guard) do(in *fuse.InHeader, request func() fuse.Status) (code fuse.Status) {
	unique := in.Unique &^ backing.UniqueResent
	if g.Tables.Head.Poison.Load() == unique {
		return status(unix.EIO)
	}
	defer func() {
		if problem := recover(); problem != nil {
			code = status(unix.EIO)
			g.panicked(unique, problem)
		}
	}()
	return request()
}

func (g guard) panicked(unique uint64, problem any) {
	g.log.WithField("stack", string(debug.Stack())).WithField("panic", fmt.Sprint(problem)).
		Error("a request met a defect of latchfs and is answered EIO; please report this")
	if g.Outlives() {
		g.Tables.Head.Poison.Store(unique)
		os.Exit(ExitPanicked)
	}
}

func (g guard) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.Lookup(cancel, in, name, out) })
}

func (g guard) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.GetAttr(cancel, in, out) })
}

func (g guard) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.SetAttr(cancel, in, out) })
}

func (g guard) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Mknod(cancel, in, name, out) })
}

func (g guard) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Mkdir(cancel, in, name, out) })
}

func (g guard) Unlink(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.Unlink(cancel, in, name) })
}

func (g guard) Rmdir(cancel <-chan struct{}, in *fuse.InHeader, name string) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.Rmdir(cancel, in, name) })
}

func (g guard) Rename(cancel <-chan struct{}, in *fuse.RenameIn, oldName string, newName string) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Rename(cancel, in, oldName, newName) })
}

func (g guard) Link(cancel <-chan struct{}, in *fuse.LinkIn, filename string, out *fuse.EntryOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Link(cancel, in, filename, out) })
}

func (g guard) Symlink(cancel <-chan struct{}, in *fuse.InHeader, pointedTo string, linkName string, out *fuse.EntryOut) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.Symlink(cancel, in, pointedTo, linkName, out) })
}

func (g guard) Readlink(cancel <-chan struct{}, in *fuse.InHeader) (result []byte, code fuse.Status) {
	code = g.do(in, func() (code fuse.Status) {
		result, code = g.FS.Readlink(cancel, in)
		return code
	})
	return result, code
}

func (g guard) GetXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string, dest []byte) (result uint32, code fuse.Status) {
	code = g.do(in, func() (code fuse.Status) {
		result, code = g.FS.GetXAttr(cancel, in, attr, dest)
		return code
	})
	return result, code
}

func (g guard) ListXAttr(cancel <-chan struct{}, in *fuse.InHeader, dest []byte) (result uint32, code fuse.Status) {
	code = g.do(in, func() (code fuse.Status) {
		result, code = g.FS.ListXAttr(cancel, in, dest)
		return code
	})
	return result, code
}

func (g guard) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, attr string, data []byte) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.SetXAttr(cancel, in, attr, data) })
}

func (g guard) RemoveXAttr(cancel <-chan struct{}, in *fuse.InHeader, attr string) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.RemoveXAttr(cancel, in, attr) })
}

func (g guard) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Create(cancel, in, name, out) })
}

func (g guard) Tmpfile(cancel <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Tmpfile(cancel, in, out) })
}

func (g guard) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Open(cancel, in, out) })
}

func (g guard) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (result fuse.ReadResult, code fuse.Status) {
	code = g.do(&in.InHeader, func() (code fuse.Status) {
		result, code = g.FS.Read(cancel, in, buf)
		return code
	})
	return result, code
}

func (g guard) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Lseek(cancel, in, out) })
}

func (g guard) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	g.do(&in.InHeader, func() fuse.Status {
		g.FS.Release(cancel, in)
		return fuse.OK
	})
}

func (g guard) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (result uint32, code fuse.Status) {
	code = g.do(&in.InHeader, func() (code fuse.Status) {
		result, code = g.FS.Writev(cancel, in, data)
		return code
	})
	return result, code
}

func (g guard) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (result uint32, code fuse.Status) {
	code = g.do(&in.InHeader, func() (code fuse.Status) {
		result, code = g.FS.CopyFileRange(cancel, in)
		return code
	})
	return result, code
}

func (g guard) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Flush(cancel, in) })
}

func (g guard) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Fsync(cancel, in) })
}

func (g guard) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Fallocate(cancel, in) })
}

func (g guard) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.OpenDir(cancel, in, out) })
}

func (g guard) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.ReadDir(cancel, in, out) })
}

func (g guard) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.ReadDirPlus(cancel, in, out) })
}

func (g guard) ReleaseDir(in *fuse.ReleaseIn) {
	g.do(&in.InHeader, func() fuse.Status {
		g.FS.ReleaseDir(in)
		return fuse.OK
	})
}

func (g guard) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.FsyncDir(cancel, in) })
}

func (g guard) StatFs(cancel <-chan struct{}, in *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	return g.do(in, func() fuse.Status { return g.FS.StatFs(cancel, in, out) })
}

func (g guard) Statx(cancel <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	return g.do(&in.InHeader, func() fuse.Status { return g.FS.Statx(cancel, in, out) })
}
