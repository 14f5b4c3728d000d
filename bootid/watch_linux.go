package bootid

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// pollInterval is the time between two polls of the watched processes without pidfds
// (before Linux 5.3, or if a sandbox forbids pidfds).
const pollInterval = 100 * time.Millisecond

// watcher reports the ends of processes. The pidfds of all watched processes are in one epoll
// set. One goroutine waits for events of the set; the first watch starts it.
type watcher struct {
	mu      sync.Mutex // guards the fields below
	started bool
	ticking bool // the polling goroutine runs
	closed  bool
	epoll   int // epoll descriptor
	wake    int // eventfd that ends the goroutine
	next    uint64
	pidfds  Pidfds
	exits   exitSource
	watches map[uint64]*processWatch // by the token in their epoll events; a token is never reused
}

// processWatch is the Watch of a Host.
type processWatch struct {
	watcher *watcher
	token   uint64
	process Process
	ended   func()
	told    atomic.Bool // ended or Stop has been called
	exits   *exitEvents // nil without a connector

	closing func() // the watch calls it before it closes the pidfd; may be nil

	mu    sync.Mutex // guards pidfd, so that Stop does not close a pidfd in use
	pidfd int        // -1 when polling or stopped
}

var _ Watch = (*processWatch)(nil)

// Tokens of the other descriptors in the epoll set. The tokens of watches count up from 1.
const (
	wakeToken      = 0 // the eventfd
	connectorToken = math.MaxUint64
)

// Watch implements [System]. The watch holds one pidfd until Stop.
func (h *Host) Watch(p Process, ended func()) (Watch, error) {
	return h.watcher.watch(p, ended)
}

// Pidfds keeps the pidfds of watched processes beyond the death of this server. From them the next server
// learns how a process ended while no server ran.
type Pidfds interface {
	// Take returns the pidfd of p that an earlier server left. The caller closes the pidfd.
	Take(p Process) (pidfd int, ok bool)
	// Kept keeps a pidfd of p. The caller calls closing before it closes the pidfd.
	Kept(p Process, pidfd int) (closing func())
}

// KeepPidfds sets the keeper of the pidfds. The caller calls it before the first Watch.
func (h *Host) KeepPidfds(pidfds Pidfds) {
	h.watcher.mu.Lock()
	defer h.watcher.mu.Unlock()
	h.watcher.pidfds = pidfds
}

// HasPidfd reports whether the kernel has pidfds. Without pidfds, watches poll.
func (h *Host) HasPidfd() bool {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}

func (w *watcher) watch(p Process, ended func()) (Watch, error) {
	if !p.Known() {
		return nil, ErrNoProcess
	}
	w.mu.Lock()
	pidfds := w.pidfds
	w.mu.Unlock()
	pidfd, inherited := -1, false
	if pidfds != nil {
		pidfd, inherited = pidfds.Take(p)
	}
	var err error
	if !inherited {
		pidfd, err = unix.PidfdOpen(p.PID, 0)
	}
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL):
		return nil, ErrNoProcess
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		pidfd = -1
	case err != nil:
		return nil, fmt.Errorf("pidfd of %v: %w", p, err)
	}
	w.exits.find()
	exits := w.exits.watch(p)
	// The kernel may have reused the pid before PidfdOpen. From here on, the pidfd names one
	// process only.
	switch {
	case !inherited && hasEnded(p):
		err = ErrNoProcess
	case inherited && readable(pidfd):
		w.exits.forget(exits) // the events belong to another process with that pid
		fallthrough
	default:
		err = w.start()
	}
	if err != nil {
		w.exits.forget(exits)
		closeIfOpen(pidfd)
		return nil, err
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		w.exits.forget(exits)
		closeIfOpen(pidfd)
		return nil, errors.New("watch after close")
	}
	w.next++
	watch := &processWatch{watcher: w, token: w.next, process: p, ended: ended, exits: exits, pidfd: pidfd}
	w.watches[watch.token] = watch
	if pidfd >= 0 {
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
		setToken(&event, watch.token)
		if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, pidfd, &event); err != nil {
			delete(w.watches, watch.token)
			w.exits.forget(exits)
			unix.Close(pidfd)
			return nil, fmt.Errorf("watch %v: %w", p, err)
		}
		if pidfds != nil {
			watch.closing = pidfds.Kept(p, pidfd)
		}
	} else if !w.ticking {
		w.ticking = true
		go w.poll()
	}
	return watch, nil
}

// hasEnded reports whether no live process has the pid and the start time of p.
func hasEnded(p Process) bool {
	stat, err := readStat(p.PID)
	if err != nil {
		return errors.Is(err, ErrNoProcess)
	}
	return stat.startTime != p.StartTime || stat.ended()
}

// Ended implements [Watch]. It polls the pidfd without waiting.
func (p *processWatch) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return hasEnded(p.process)
	}
	return readable(p.pidfd)
}

// readable reports whether the pidfd is readable: the process has ended.
func readable(pidfd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return err == nil && n == 1
}

// Exit implements [Watch]. Before the parent reaps the process, the exit status is in the stat file of the zombie
// (Linux 3.5). Afterwards it comes from the pidfd (Linux 6.15) or from the process events of the kernel.
func (p *processWatch) Exit() Exit {
	exit := p.exitNow()
	if exit == ExitUnknown && p.exits != nil && p.Ended() {
		exit = p.watcher.exits.connector.exitOf(p.exits)
	}
	return exit
}

func (p *processWatch) exitNow() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Read the zombie first: if the parent reaps it in between, the pidfd has the status.
	if stat, err := readStat(p.process.PID); err == nil && stat.startTime == p.process.StartTime {
		switch {
		case !stat.ended():
			return ExitUnknown
		// The namespace and the status need the same permission (PTRACE_MODE_READ_FSCREDS).
		case stat.exitCode != 0 || pidNamespace(p.process.PID) != 0:
			return exitFromStatus(stat.exitCode)
		}
	}
	if p.pidfd >= 0 {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		if pidfdInfo(p.pidfd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return exitFromStatus(int(info.Exit_code))
		}
	}
	return ExitUnknown
}

func exitFromStatus(status int) Exit {
	switch {
	case unix.WaitStatus(status).Signaled():
		return ExitSignal
	case status != 0:
		return ExitFailure
	}
	return ExitSuccess
}

// Stop implements [Watch].
func (p *processWatch) Stop() {
	p.told.Store(true)
	p.watcher.mu.Lock()
	delete(p.watcher.watches, p.token)
	p.watcher.mu.Unlock()
	p.watcher.exits.forget(p.exits)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing != nil {
		p.closing()
		p.closing = nil
	}
	closeIfOpen(p.pidfd)
	p.pidfd = -1
}

// tell reports the end of the process, once.
func (p *processWatch) tell() {
	if p.told.CompareAndSwap(false, true) {
		p.watcher.exits.ended(p.exits)
		p.ended()
	}
}

// start makes the epoll set and starts its goroutine, once.
func (w *watcher) start() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.started {
		return nil
	}
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("epoll set for process deaths: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err == nil {
		event := unix.EpollEvent{Events: unix.EPOLLIN}
		setToken(&event, wakeToken)
		if err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &event); err != nil {
			unix.Close(wake)
		}
	}
	if err == nil && w.exits.connector != nil {
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
		setToken(&event, connectorToken)
		if err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, w.exits.connector.fd, &event); err != nil {
			unix.Close(wake)
		}
	}
	if err != nil {
		unix.Close(epoll)
		return fmt.Errorf("epoll set for process deaths: %w", err)
	}
	w.started, w.epoll, w.wake = true, epoll, wake
	w.watches = make(map[uint64]*processWatch)
	go w.run(epoll, wake)
	return nil
}

// run waits for ends of processes until close. It owns the epoll set and the eventfd, and closes both.
func (w *watcher) run(epoll, wake int) {
	defer unix.Close(epoll)
	defer unix.Close(wake)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // only a broken epoll descriptor gets here
		}
		for i := range max(n, 0) {
			token := getToken(&events[i])
			if token == wakeToken {
				return
			}
			if token == connectorToken {
				time.AfterFunc(drainPause, w.drainExits)
				continue
			}
			w.mu.Lock()
			watch := w.watches[token]
			w.mu.Unlock()
			if watch != nil {
				watch.tell()
			}
		}
		// Other goroutines act on the end of a process. A wait in a system call would keep the processor from
		// them until the runtime notices, which can take 10 ms.
		runtime.Gosched()
	}
}

// drainExits reads the pending process events and arms the epoll set for the next ones.
func (w *watcher) drainExits() {
	w.exits.connector.drainAll()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
	setToken(&event, connectorToken)
	// This cannot fail: both descriptors are open.
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_MOD, w.exits.connector.fd, &event)
}

// poll replaces pidfds. It ends when no watch needs polling.
func (w *watcher) poll() {
	for {
		time.Sleep(pollInterval)
		var polled []*processWatch
		w.mu.Lock()
		for _, watch := range w.watches {
			if watch.polled() {
				polled = append(polled, watch)
			}
		}
		if len(polled) == 0 || w.closed {
			w.ticking = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		for _, watch := range polled {
			if hasEnded(watch.process) {
				watch.tell()
			}
		}
	}
}

// polled reports whether the watch has no pidfd and has not reported the end of its process.
func (p *processWatch) polled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pidfd < 0 && !p.told.Load()
}

// close ends the goroutines. Stop ends each watch.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.exits.close()
	if w.started {
		// This cannot fail: the counter is 0 and run has not closed the eventfd.
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func closeIfOpen(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// setToken stores the token in an epoll event. x/sys splits the 64 bits for the owner of the event in two.
func setToken(event *unix.EpollEvent, token uint64) {
	event.Fd, event.Pad = int32(uint32(token)), int32(uint32(token>>32))
}

func getToken(event *unix.EpollEvent) uint64 {
	return uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
}
