//go:build linux

package filesystem

import (
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// Requests and flags that golang.org/x/sys does not have (linux/fs.h, linux/fiemap.h).
const (
	rwfNoWait     = 0x8
	iocFiemap     = 0xc020660b
	fsIocGetFlags = 0x80086601
)

// TestWhatFUSECannot: the limits that the documents name are those of the kernel's FUSE: each call is answered with that
// error, and works beneath. A kernel that can do it by now passes.
func TestWhatFUSECannot(t *testing.T) {
	t.Parallel()
	calls := map[string]struct {
		want unix.Errno
		do   func(dir string, fd int) error
	}{
		"RWF_NOWAIT": {unix.EOPNOTSUPP, func(_ string, fd int) error {
			_, err := unix.Preadv2(fd, [][]byte{make([]byte, 10)}, 0, rwfNoWait)
			if err == unix.EAGAIN {
				err = nil // it would have to wait
			}
			return err
		}},
		"fallocate: collapse": {unix.EOPNOTSUPP, func(_ string, fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096)
		}},
		"fiemap": {unix.EOPNOTSUPP, func(_ string, fd int) error {
			request := struct {
				start, length                  uint64
				flags, mapped, count, reserved uint32
			}{length: 1 << 20}
			return ioctl(fd, iocFiemap, unsafe.Pointer(&request))
		}},
		"chattr": {unix.ENOTTY, func(_ string, fd int) error {
			var flags int
			return ioctl(fd, fsIocGetFlags, unsafe.Pointer(&flags))
		}},
		"fanotify of the filesystem by file handle": {unix.ENODEV, func(dir string, _ int) error {
			group, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, unix.O_RDONLY)
			if err != nil {
				return err
			}
			defer unix.Close(group)
			return unix.FanotifyMark(group, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, dir)
		}},
		"statx: direct I/O alignment": {unix.ENODATA, func(dir string, _ int) error {
			var st unix.Statx_t
			err := unix.Statx(unix.AT_FDCWD, dir+"/file", 0, unix.STATX_DIOALIGN, &st)
			if err == nil && st.Mask&unix.STATX_DIOALIGN == 0 {
				err = unix.ENODATA
			}
			return err
		}},
		"file leases": {0, func(_ string, fd int) error {
			_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
			return err
		}},
	}
	results := func(dir string) map[string]error {
		path := dir + "/file"
		if err := os.WriteFile(path, make([]byte, 1<<16), 0o644); err != nil {
			t.Fatal(err)
		}
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		results := make(map[string]error)
		for name, call := range calls {
			results[name] = call.do(dir, fd)
		}
		return results
	}
	beneath := results(t.TempDir())
	mounted := results(harness.MountOver(t, t.TempDir()).Dir)
	for name, call := range calls {
		switch got := mounted[name]; {
		case beneath[name] != nil:
			t.Logf("%s cannot be done beneath either: %v", name, beneath[name])
		case got == nil:
			if call.want != 0 {
				t.Logf("%s works with this kernel", name)
			}
		case got != call.want:
			t.Errorf("%s: %v, not %v", name, got, call.want)
		}
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
