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

// pollInterval is how often watched processes are looked at where there are no
// pidfds (before Linux 5.3, or forbidden by a sandbox).
const pollInterval = 100 * time.Millisecond

// watcher tells of deaths: the pidfds of all watched processes in one epoll
// set, read by one goroutine that runs from the first watch on.
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
	watches map[uint64]*processWatch // by token, which epoll events carry; never used again
}

// processWatch is the Watch of a Host.
type processWatch struct {
	watcher *watcher
	token   uint64
	process Process
	ended   func()
	told    atomic.Bool // ended has been called, or Stop
	exits   *exitEvents // nil without a connector

	closing func() // called before the pidfd is closed; may be nil

	mu    sync.Mutex // guards pidfd against being closed in use
	pidfd int        // -1 when polling or stopped
}

var _ Watch = (*processWatch)(nil)

// Tokens of what else is in the epoll set; watches count up from 1.
const (
	wakeToken      = 0 // the eventfd
	connectorToken = math.MaxUint64
)

// Watch implements [System]. It keeps one pidfd until Stop.
func (h *Host) Watch(p Process, ended func()) (Watch, error) {
	return h.watcher.watch(p, ended)
}

// Pidfds keeps the pidfds of watched processes for another server, should this one die, so that it
// learns how those ended that ended in between.
type Pidfds interface {
	// Take returns the pidfd that a server before this one had of p. The caller closes it.
	Take(p Process) (pidfd int, ok bool)
	// Kept tells of a pidfd of p. The caller calls closing before he closes it.
	Kept(p Process, pidfd int) (closing func())
}

// KeepPidfds has pidfds kept. It is called before the first Watch.
func (h *Host) KeepPidfds(pidfds Pidfds) {
	h.watcher.mu.Lock()
	defer h.watcher.mu.Unlock()
	h.watcher.pidfds = pidfds
}

// HasPidfd says whether deaths are events; otherwise they are polled for.
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
	// The number may have been used again before the pidfd was opened; from here on it
	// cannot be mistaken.
	switch {
	case !inherited && hasEnded(p):
		err = ErrNoProcess
	case inherited && readable(pidfd):
		w.exits.forget(exits) // the events are those of another with that pid
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

// hasEnded looks the process up by its number.
func hasEnded(p Process) bool {
	stat, err := readStat(p.PID)
	if err != nil {
		return errors.Is(err, ErrNoProcess)
	}
	return stat.startTime != p.StartTime || stat.ended()
}

// Ended implements [Watch] with a poll(2) that does not wait.
func (p *processWatch) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd < 0 {
		return hasEnded(p.process)
	}
	return readable(p.pidfd)
}

func readable(pidfd int) bool {
	fds := [1]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	return err == nil && n == 1
}

// Exit implements [Watch]. Once the parent has reaped the process the pidfd
// knows (Linux 6.15), or the kernel's events told; before that, stat of the zombie does (3.5).
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
	// The zombie first: if it is reaped in between, the pidfd answers.
	if stat, err := readStat(p.process.PID); err == nil && stat.startTime == p.process.StartTime {
		switch {
		case !stat.ended():
			return ExitUnknown
		// To read the namespace takes what to know the status takes (PTRACE_MODE_READ_FSCREDS).
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

func (p *processWatch) tell() {
	if p.told.CompareAndSwap(false, true) {
		p.watcher.exits.ended(p.exits)
		p.ended()
	}
}

// start makes the epoll set and its goroutine, once.
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

// run waits for deaths until close. It owns the epoll set and the eventfd and closes them.
func (w *watcher) run(epoll, wake int) {
	defer unix.Close(epoll)
	defer unix.Close(wake)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return // only a broken epoll descriptor ends up here
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
		// What follows from a death runs in other goroutines. To wait in a system call keeps the processor from them until the
		// runtime notices, which can take 10 ms.
		runtime.Gosched()
	}
}

// drainExits reads the kernel's events, and waits for others.
func (w *watcher) drainExits() {
	w.exits.connector.drainAll()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT}
	setToken(&event, connectorToken)
	// Cannot fail: both are open.
	_ = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_MOD, w.exits.connector.fd, &event)
}

// poll stands in for pidfds. It ends when nothing is left to look at.
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

// polled says that the death is still to be told and no event will tell it.
func (p *processWatch) polled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pidfd < 0 && !p.told.Load()
}

// close ends the goroutines; the watches themselves end with Stop.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.exits.close()
	if w.started {
		// Cannot fail: the counter is 0 and the descriptor is ours.
		_, _ = unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

func closeIfOpen(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// An epoll event carries 64 bits for its owner, which x/sys splits in two.
func setToken(event *unix.EpollEvent, token uint64) {
	event.Fd, event.Pad = int32(uint32(token)), int32(uint32(token>>32))
}

func getToken(event *unix.EpollEvent) uint64 {
	return uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32
}
