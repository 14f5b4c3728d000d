//go:build linux

package fs

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"latchfs/bootid"
)

// The descriptor keeper of a server is a process that shares the server's table of descriptors
// (CLONE_FILES) and sleeps. When the server is killed every descriptor stays open there, the one
// of /dev/fuse with them, which keeps the mount from dying; the next server takes them
// with pidfd_getfd(2). So descriptors outlive the server without a system call or a message for
// any of them.
//
// It is a copy of the server that never runs Go again: execve(2) would undo the sharing. It ends
// when the keeper does.

// startDescriptorKeeper starts the descriptor keeper of this server and writes it down.
func (f *FS) startDescriptorKeeper() error {
	keeper, err := unix.PidfdOpen(f.keeper, 0)
	if err != nil {
		return fmt.Errorf("pidfd of the keeper: %w", err)
	}
	pid, err := cloneDescriptorKeeper(keeper, f.keeper)
	if err != nil {
		return fmt.Errorf("clone the descriptorKeeper: %w", err)
	}
	descriptorKeeper := &f.tables.head.descriptorKeepers[f.tables.column]
	started, err := bootid.StartTime(pid)
	if err == nil {
		descriptorKeeper.started.Store(started)
		descriptorKeeper.server.Store(uint64(os.Getpid()))
		descriptorKeeper.pid.Store(uint64(pid))
		err = f.tryDescriptorKeeper(pid)
	}
	if err != nil {
		descriptorKeeper.pid.Store(0)
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
	return err
}

// tryDescriptorKeeper finds out whether a descriptor can be taken from it (ptrace(2), "ptrace access mode
// checking").
func (f *FS) tryDescriptorKeeper(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, int(f.tables.file.Fd()), 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	return unix.Close(fd)
}

// DescriptorKeeper is the process that keeps this server's descriptors open, 0 if there is none.
func (f *FS) DescriptorKeeper() int {
	return int(f.tables.head.descriptorKeepers[f.tables.column].pid.Load())
}

// Abandon ends the descriptor keepers recorded in tables, of any version, and with them the mount if its server
// has ended. The tables are empty afterwards.
func Abandon(file *os.File) error {
	head, unmap, err := mapHead(file)
	if err != nil {
		return err
	}
	if head.magic == tablesMagic {
		for i := range head.descriptorKeepers {
			if pidfd := openDescriptorKeeper(&head.descriptorKeepers[i]); pidfd >= 0 {
				kill(pidfd)
				unix.Close(pidfd)
			}
		}
	}
	return errors.Join(unmap(), ResetTables(file))
}

// kill ends the process of a pidfd and waits until it has ended.
func kill(pidfd int) {
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	awaitEnd(pidfd)
}

// awaitEnd waits, at most a second, for the process of a pidfd to end.
func awaitEnd(pidfd int) {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	_ = retry(func() error {
		_, err := unix.Poll(poll, int(time.Second/time.Millisecond))
		return err
	})
}

// stopDescriptorKeeper ends the descriptor keeper, if there is one.
func (f *FS) stopDescriptorKeeper() {
	descriptorKeeper := &f.tables.head.descriptorKeepers[f.tables.column]
	pid := int(descriptorKeeper.pid.Swap(0))
	if pid == 0 {
		return
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = unix.Wait4(pid, nil, 0, nil)
}

// openDescriptorKeeper returns a pidfd of an descriptor keeper of another server; -1 if it has ended.
func openDescriptorKeeper(row *descriptorKeeperRow) int {
	pid := int(row.pid.Load())
	if pid == 0 {
		return -1
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1
	}
	if started, err := bootid.StartTime(pid); err != nil || started != row.started.Load() {
		unix.Close(pidfd)
		return -1
	}
	return pidfd
}

// pollFD is struct pollfd of poll(2).
type pollFD struct {
	fd      int32
	events  int16
	revents int16
}

var descriptorKeeperName = [16]byte{'l', 'a', 't', 'c', 'h', 'f', 's', '-', 'a', 'n', 'c', 'h', 'o', 'r'}

// cloneDescriptorKeeper starts an descriptor keeper that ends with the process of a pidfd.
func cloneDescriptorKeeper(keeperFD, keeper int) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The copy inherits the mask: no signal handler of Go's runtime must run there.
	all, before := ^uint64(0), uint64(0)
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), 8, 0, 0); errno != 0 {
		return 0, errno
	}
	poll := pollFD{fd: int32(keeperFD), events: unix.POLLIN}
	child, errno := rawDescriptorKeeper(&poll, uintptr(keeper))
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(child), nil
}

// rawDescriptorKeeper returns in the parent only. In the copy there is one thread and nothing of Go's
// runtime: system calls alone, no memory is allocated, no stack grows.
//
//go:norace
//go:nosplit
func rawDescriptorKeeper(poll *pollFD, keeper uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&descriptorKeeperName)), 0, 0, 0, 0)
	// Yama lets only descendants be looked at, unless they say by whom.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PTRACER, keeper, 0, 0, 0, 0)
	for {
		n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(poll)), 1, 0, 0, 0, 0)
		if n == 1 {
			syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
		}
	}
}
