package bootid

import (
	"errors"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sources of the exit status of a process that its parent has reaped.
const (
	ExitsFromPidfd     = "pidfd"     // PIDFD_GET_INFO, Linux 6.15
	ExitsFromConnector = "connector" // process events of the kernel
)

// ExitSource returns the source of the exit status of a process that its parent has reaped, or "" if there is no
// source. The exit status of a zombie is always known.
func (h *Host) ExitSource() string {
	h.watcher.exits.find()
	return h.watcher.exits.name
}

// exitSource is the source of exit statuses. The method find sets its fields.
type exitSource struct {
	once      sync.Once
	name      string
	connector *connector // nil if the source is no connector
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

// watch returns nil if there is no connector. The other methods accept nil.
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
	s.once.Do(func() {}) // after close, find opens no connector
	if s.connector != nil {
		s.connector.close()
	}
}

// PidfdTellsExit reports whether a pidfd has the exit status after the parent has reaped the process
// (PIDFD_INFO_EXIT, Linux 6.15). A pidfd of a running process cannot show that, so PidfdTellsExit ends a thread.
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

// openEndingThread sends a pidfd of its thread, and ends the thread. It sends -1 if there is no such pidfd.
func openEndingThread(pidfds chan<- int) {
	runtime.LockOSThread() // the thread ends with its goroutine
	if unix.Gettid() == unix.Getpid() {
		// The first thread of a process does not end with its goroutine.
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

// pidfdInfo calls ioctl(PIDFD_GET_INFO) (Linux 6.13, linux/pidfd.h).
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
