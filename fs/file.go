//go:build linux

package fs

import (
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
	"latchfs/lockstore/payload"
)

// Open implements fuse.RawFileSystem.
func (f *FS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if isControl(in.NodeId) {
		return status(f.control.Open(in, out))
	}
	n := f.Inodes.Get(in.NodeId)
	if n == nil {
		return status(unix.ESTALE)
	}
	f.undo(&in.InHeader)
	// failpoint: crashAt("open before")
	// failpoint: defer crashAt("open reply")
	if err := f.MayOpen(&in.InHeader, n.LockNamed()); err != nil {
		return status(err)
	}
	return status(f.open(n, in, out))
}

// newHandle returns the handle of a file that is about to be opened.
func (f *FS) newHandle(n *backing.Inode, in *fuse.OpenIn) *backing.Handle {
	return &backing.Handle{Node: n, Flags: int(in.Flags) & backing.OpenFlags, Unique: in.Unique, User: in.Uid, FD: -1}
}

// openFile opens the file of h. If watched, writes of the file go through latchfs.
func (f *FS) openFile(h *backing.Handle, in *fuse.OpenIn, out *fuse.OpenOut, watched bool) (err error) {
	n := h.Node
	if int(in.Flags)&unix.O_TRUNC != 0 {
		if h.FD, err = f.Reopen(n, h.Flags|unix.O_TRUNC); err != nil {
			return err
		}
	}
	if in.Mode&fuse.OPEN_KILL_SUIDGID != 0 {
		if err := f.KillPrivileges(n); err != nil {
			f.CloseFile(h)
			return err
		}
	}
	if watched {
		f.openedLock(n, h, nil, false, out)
	} else {
		mode := uint32(0)
		if h.Writes() {
			st, err := f.Stat(n)
			if err != nil {
				f.CloseFile(h)
				return err
			}
			mode = st.Mode
		}
		f.opened(n, h, mode, out)
	}
	if h.Direct || !f.Spares(h) {
		// An error of open(2) beneath has to be known now and not at the first read.
		if _, err := f.File(h); err != nil {
			f.Closed(h)
			f.RemoveFile(out.Fh, h)
			return err
		}
	}
	return nil
}

// Release implements fuse.RawFileSystem.
func (f *FS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if isControl(in.NodeId) {
		f.control.Release(in.Fh)
		return
	}
	h := f.Files.Get(in.Fh)
	if h == nil {
		return // a dead server has released it
	}
	// failpoint: crashAt("release before")
	// The row is removed last, so that the rest is done when the request comes again.
	if h.Descriptor != nil && h.Row.Bits.Load()&handover.BitClosing == 0 {
		bits := uint32(handover.BitClosing)
		if h.Row.Bits.Load()&handover.BitFlushed == 0 && f.locks.Ending(h.Descriptor) {
			bits |= handover.BitClosedEnd
		}
		h.Row.Bits.Or(bits)
	}
	f.CloseFile(h)
	if h.Row.Bits.Load()&handover.BitReleased == 0 {
		h.Row.Bits.Or(handover.BitReleased)
		f.Closed(h)
	}
	if h.Passthrough && h.Flags&unix.O_ACCMODE == unix.O_RDWR {
		// The kernel does not notice that stores to a mapping change the times. Such a mapping needs O_RDWR (mmap(2)).
		f.ForgetAttributes(h.Node)
	}
	// failpoint: crashAt("release after")
	f.closedLock(h)
	f.RemoveFile(in.Fh, h)
	// failpoint: crashAt("release reply")
}

// descriptor returns a file handle and its descriptor.
func (f *FS) descriptor(fh uint64) (*backing.Handle, int, error) {
	h := f.Files.Get(fh)
	if h == nil {
		return nil, -1, unix.EBADF
	}
	fd, err := f.File(h)
	return h, fd, err
}

// admitWrite returns nil if the caller may change the file of h.
func (f *FS) admitWrite(h *backing.Handle, in *fuse.InHeader) error {
	if h.Descriptor != nil {
		return nil // it is the creator's, or a process got it from the creator
	}
	return f.admitChange(h.Node, in, lockstore.Writing)
}

// withFile calls do with a file handle and a descriptor of it.
func (f *FS) withFile(fh uint64, do func(h *backing.Handle, fd int) error) error {
	h := f.Files.Get(fh)
	if h == nil {
		return unix.EBADF
	}
	return f.WithFile(h, func(fd int) error { return do(h, fd) })
}

// withWritable calls do with a file handle and a descriptor of it for a change of the file by the caller, or refuses the
// change.
func (f *FS) withWritable(fh uint64, in *fuse.InHeader, do func(h *backing.Handle, fd int) error) error {
	return f.withFile(fh, func(h *backing.Handle, fd int) error {
		if err := f.admitWrite(h, in); err != nil {
			return err
		}
		return do(h, fd)
	})
}

// writer returns a file handle and its descriptor for a write, or refuses the write. A write from the page cache, of
// a mapped file, comes from the kernel and counts for the process that opened the file.
func (f *FS) writer(in *fuse.WriteIn) (*backing.Handle, int, error) {
	h, fd, err := f.descriptor(in.Fh)
	if err != nil || in.WriteFlags&fuse.WRITE_CACHE != 0 && h.Family {
		return h, fd, err
	}
	return h, fd, f.admitWrite(h, &in.InHeader)
}

// Read implements fuse.RawFileSystem.
func (f *FS) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if isControl(in.NodeId) {
		text, err := f.control.Read(in, buf)
		return fuse.ReadResultData(text), status(err)
	}
	_, fd, err := f.descriptor(in.Fh)
	if err != nil {
		return nil, status(err)
	}
	return fuse.ReadResultFd(uintptr(fd), int64(in.Offset), int(in.Size)), fuse.OK
}

// Writev implements fuse.RawFileSystem.
func (f *FS) Writev(_ <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if isControl(in.NodeId) {
		n, err := f.control.Write(in, data)
		return n, status(err)
	}
	h, fd, err := f.writer(in)
	if err != nil {
		return 0, status(err)
	}
	if in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0 {
		if err := f.KillPrivileges(h.Node); err != nil {
			return 0, status(err)
		}
	}
	write := f.write
	if in.WriteFlags&fuse.WRITE_CACHE != 0 && h.Flags&unix.O_APPEND != 0 {
		write = f.writeMapped
	}
	n, err := write(h, fd, in, data)
	if err == nil && h.Descriptor != nil && len(data) == 1 {
		f.locks.Wrote(h.Descriptor, data[0], f.caller(&in.InHeader))
	}
	return uint32(max(n, 0)), status(err)
}

// writeMapped writes data of a mapped file at its offset. A descriptor with O_APPEND would write it at the end.
func (f *FS) writeMapped(h *backing.Handle, _ int, in *fuse.WriteIn, data [][]byte) (n int, err error) {
	fd, err := f.Reopen(h.Node, h.Flags&^unix.O_APPEND)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return pwrite(fd, data, in.Offset)
}

func pwrite(fd int, data [][]byte, offset uint64) (n int, err error) {
	err = backing.Retry(func() error {
		n, err = unix.Pwritev(fd, data, int64(offset))
		return err
	})
	return n, err
}

// write writes data once: appending it twice would show.
func (f *FS) write(h *backing.Handle, fd int, in *fuse.WriteIn, data [][]byte) (n int, err error) {
	i := f.begin(&in.InHeader, opWrite)
	if n, err, ok := i.finished(); ok {
		return n, err
	}
	if h.Flags&unix.O_APPEND != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return 0, err
		}
		if !i.Again {
			i.SetSize(st.Size)
		} else if grown := st.Size - i.Size(); grown > 0 {
			// The kernel sends one write of a file at a time, so the file has grown by this one.
			n = int(min(grown, int64(in.Size)))
			i.finish(n, nil)
			return n, nil
		}
	}
	if !i.Again {
		i.Commit(in.Unique &^ backing.UniqueResent)
	}
	// failpoint: crashAt(operationNames[i.Operation()] + " before")
	n, err = pwrite(fd, data, in.Offset)
	// failpoint: crashAt(operationNames[i.Operation()] + " after")
	i.finish(max(n, 0), err)
	return n, err
}

// Flush implements fuse.RawFileSystem. Some filesystems report failed writes only when a descriptor is closed. The
// caller waits for FLUSH, so it tells a process that closes a file from one that ends with the file open. No process
// waits for RELEASE: by then the caller may have been killed.
func (f *FS) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	h := f.Files.Get(in.Fh)
	if h == nil || !h.Writes() {
		return fuse.OK
	}
	if h.Descriptor != nil && !f.locks.Ending(h.Descriptor) {
		h.Row.Bits.Or(handover.BitFlushed)
	}
	fd, err := f.File(h)
	if err != nil {
		return status(err)
	}
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return status(err)
	}
	return status(unix.Close(other))
}

// Fsync implements fuse.RawFileSystem.
func (f *FS) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	return status(f.withFile(in.Fh, func(_ *backing.Handle, fd int) error { return syncFD(fd, in.FsyncFlags) }))
}

func syncFD(fd int, flags uint32) error {
	if flags&1 != 0 { // FUSE_FSYNC_FDATASYNC
		return unix.Fdatasync(fd)
	}
	return unix.Fsync(fd)
}

// Fallocate implements fuse.RawFileSystem.
func (f *FS) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	return status(f.withWritable(in.Fh, &in.InHeader, func(h *backing.Handle, fd int) error {
		err := backing.Retry(func() error { return unix.Fallocate(fd, in.Mode, int64(in.Offset), int64(in.Length)) })
		if err == nil {
			err = f.ChangedBy(h.Node, &in.InHeader)
		}
		return err
	}))
}

// Lseek implements fuse.RawFileSystem. The kernel asks only for SEEK_DATA and SEEK_HOLE.
func (f *FS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return status(f.withFile(in.Fh, func(_ *backing.Handle, fd int) error {
		offset, err := unix.Seek(fd, int64(in.Offset), int(in.Whence))
		out.Offset = uint64(offset)
		return err
	}))
}

// CopyFileRange implements fuse.RawFileSystem.
func (f *FS) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	n := 0
	err := f.withFile(in.FhIn, func(_ *backing.Handle, from int) error {
		return f.withWritable(in.FhOut, &in.InHeader, func(h *backing.Handle, to int) (err error) {
			offIn, offOut := int64(in.OffIn), int64(in.OffOut)
			// The reply has 32 bits.
			n, err = unix.CopyFileRange(from, &offIn, to, &offOut, int(min(in.Len, 1<<31-4096)), int(in.Flags))
			if err == nil {
				f.copied(h, &in.InHeader)
				err = f.ChangedBy(h.Node, &in.InHeader)
			}
			return err
		})
	})
	return uint32(max(n, 0)), status(err)
}

// copied tells the store the content of a lock's file that was written by a copy in the kernel.
func (f *FS) copied(h *backing.Handle, in *fuse.InHeader) {
	if h.Descriptor == nil {
		return
	}
	fd, err := f.Reopen(h.Node, unix.O_RDONLY)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	text := make([]byte, payload.Limit+1)
	if n, err := unix.Pread(fd, text, 0); err == nil {
		f.locks.Wrote(h.Descriptor, text[:n], f.caller(in))
	}
}
