//go:build linux

package handover

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

// The descriptor keeper of a server is a process that shares the server's table of descriptors (CLONE_FILES) and
// sleeps. When the server is killed, every descriptor stays open there. The descriptor of /dev/fuse is among them, which
// keeps the mount alive. The next server takes the descriptors with pidfd_getfd(2). So descriptors outlive the server
// without a system call or a message for each of them.
//
// The descriptor keeper is a copy of the server that never runs Go code again: execve(2) would end the sharing. It ends
// with the process that supervises the server.

// StartKeeper starts the descriptor keeper of this server and records it. It ends with the process supervisor.
func (t *Tables) StartKeeper(supervisor int) error {
	pidfd, err := unix.PidfdOpen(supervisor, 0)
	if err != nil {
		return fmt.Errorf("pidfd of the keeper: %w", err)
	}
	pid, err := cloneKeeper(pidfd, supervisor)
	if err != nil {
		return fmt.Errorf("clone the descriptor keeper: %w", err)
	}
	row := &t.Head.keepers[t.column]
	started, err := bootid.StartTime(pid)
	if err == nil {
		row.started.Store(started)
		row.server.Store(uint64(os.Getpid()))
		row.pid.Store(uint64(pid))
		err = t.tryKeeper(pid)
	}
	if err != nil {
		row.pid.Store(0)
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
	}
	return err
}

// tryKeeper checks that a descriptor can be taken from the keeper (ptrace(2), "Ptrace access mode checking").
func (t *Tables) tryKeeper(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, int(t.file.Fd()), 0)
	if err != nil {
		return fmt.Errorf("pidfd_getfd: %w", err)
	}
	return unix.Close(fd)
}

// KeeperPID returns the pid of this server's descriptor keeper, 0 if there is none.
func (t *Tables) KeeperPID() int { return int(t.Head.keepers[t.column].pid.Load()) }

// StopKeeper ends this server's descriptor keeper, if there is one.
func (t *Tables) StopKeeper() {
	pid := int(t.Head.keepers[t.column].pid.Swap(0))
	if pid == 0 {
		return
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	_, _ = unix.Wait4(pid, nil, 0, nil)
}

// Abandon ends the descriptor keepers that tables of any version record, and empties the tables. If their server has
// ended, the mount ends too.
func Abandon(file *os.File) error {
	head, unmap, err := mapHead(file)
	if err != nil {
		return err
	}
	if head.magic == tablesMagic {
		for i := range head.keepers {
			if pidfd := openKeeper(&head.keepers[i]); pidfd >= 0 {
				kill(pidfd)
				unix.Close(pidfd)
			}
		}
	}
	return errors.Join(unmap(), Reset(file))
}

// kill ends the process of a pidfd and waits until it has ended.
func kill(pidfd int) {
	_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	awaitEnd(pidfd)
}

// awaitEnd waits, at most a second, for the process of a pidfd to end.
func awaitEnd(pidfd int) {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, int(time.Second/time.Millisecond)); err != unix.EINTR {
			return
		}
	}
}

// openKeeper returns a pidfd of the descriptor keeper of another server, -1 if it has ended.
func openKeeper(row *keeperRow) int {
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

var keeperName = [16]byte{'l', 'a', 't', 'c', 'h', 'f', 's', '-', 'k', 'e', 'e', 'p', 'f', 'd', 's'}

// cloneKeeper starts a descriptor keeper that ends with the process supervisor, whose pidfd it gets.
func cloneKeeper(pidfd, supervisor int) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The copy inherits the mask: no signal handler of Go's runtime may run in it.
	all, before := ^uint64(0), uint64(0)
	if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), 8, 0, 0); errno != 0 {
		return 0, errno
	}
	poll := pollFD{fd: int32(pidfd), events: unix.POLLIN}
	child, errno := rawKeeper(&poll, uintptr(supervisor))
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&before)), 0, 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(child), nil
}

// rawKeeper returns in the parent only. The copy has one thread and nothing of Go's runtime: it makes system calls,
// allocates no memory and grows no stack.
//
//go:norace
//go:nosplit
func rawKeeper(poll *pollFD, supervisor uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, unix.CLONE_FILES|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NAME, uintptr(unsafe.Pointer(&keeperName)), 0, 0, 0, 0)
	// Yama allows access to descendants only, unless a process names another one that may have it.
	syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PTRACER, supervisor, 0, 0, 0, 0)
	for {
		n, _, _ := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(poll)), 1, 0, 0, 0, 0)
		if n == 1 {
			syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 0, 0, 0, 0, 0, 0)
		}
	}
}
