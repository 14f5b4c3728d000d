package bootid

import (
	"errors"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How the exit of a process that its parent has reaped is known.
const (
	ExitsFromPidfd     = "pidfd"     // PIDFD_GET_INFO, Linux 6.15
	ExitsFromConnector = "connector" // the kernel's process events
)

// ExitSource says how the exit of a process that its parent has reaped is known; "" if it is not. That
// of one that waits to be reaped is known anyhow.
func (h *Host) ExitSource() string {
	h.watcher.exits.find()
	return h.watcher.exits.name
}

// exitSource is where exits are known from. Its fields are set by find.
type exitSource struct {
	once      sync.Once
	name      string
	connector *connector // nil if it is another
}

func (s *exitSource) find() {
	s.once.Do(func() {
		if PidfdTellsExit() {
			s.name = ExitsFromPidfd
		} else if connector, err := newConnector(); err == nil {
			s.name, s.connector = ExitsFromConnector, connector
		}
	})
}

// watch returns nil without a connector, which its other methods take.
func (s *exitSource) watch(p Process) *exitEvents {
	if s.connector == nil {
		return nil
	}
	return s.connector.watch(p)
}

func (s *exitSource) forget(e *exitEvents) {
	if e != nil {
		s.connector.forget(e)
	}
}

func (s *exitSource) ended(e *exitEvents) {
	if e != nil {
		s.connector.ended(e)
	}
}

func (s *exitSource) close() {
	s.once.Do(func() {}) // a connector that is not there yet never is
	if s.connector != nil {
		s.connector.close()
	}
}

// PidfdTellsExit says that a pidfd knows how its process ended after the parent has reaped it
// (PIDFD_INFO_EXIT, Linux 6.15). The kernel shows that of none that runs, so a thread is ended to see.
func PidfdTellsExit() bool {
	pidfds := make(chan int)
	go openEndingThread(pidfds)
	pidfd := <-pidfds
	if pidfd < 0 {
		return false
	}
	defer unix.Close(pidfd)
	for deadline := time.Now().Add(exitWait); time.Now().Before(deadline); time.Sleep(100 * time.Microsecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if err := pidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return err == nil
		}
	}
	return false
}

// openEndingThread sends a pidfd of the thread it runs on, -1 if it cannot be had, and ends that.
func openEndingThread(pidfds chan<- int) {
	runtime.LockOSThread() // and a thread is not used again after that
	if unix.Gettid() == unix.Getpid() {
		// The first thread does not end.
		defer runtime.UnlockOSThread()
		other := make(chan int)
		go openEndingThread(other)
		pidfds <- <-other
		return
	}
	pidfd, err := unix.PidfdOpen(unix.Gettid(), unix.PIDFD_THREAD)
	if err != nil {
		pidfd = -1
		runtime.UnlockOSThread()
	}
	pidfds <- pidfd
}

// pidfdInfo is ioctl(PIDFD_GET_INFO), Linux 6.13; see linux/pidfd.h.
func pidfdInfo(pidfd int, info *unix.PidfdInfo) error {
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), unix.PIDFD_GET_INFO, uintptr(unsafe.Pointer(info)))
		if errno == 0 {
			return nil
		} else if !errors.Is(errno, unix.EINTR) {
			return errno
		}
	}
}
