package bootid

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// connector listens to the process events of the kernel (linux/cn_proc.h). It yields the exit status of a watched
// process if the pidfd does not have it. A filter in the kernel passes little but the exits of processes. While no
// process is watched, the kernel sends no events.
//
// The kernel sends the event just after the pidfd becomes readable. By then the parent may have reaped
// the process (do_exit in kernel/exit.c), so exitOf waits for the event for exitWait. Events carry pids, and the kernel
// reuses a pid only after all others. An event that comes late, or comes while the watched process runs, belongs to
// another process.
type connector struct {
	fd int

	mu      sync.Mutex            // guards the fields below, and reads from fd
	closed  bool                  // fd is closed
	watched map[int][]*exitEvents // by pid
	buffer  [messageEnd]byte      // holds one message
}

// exitEvents collects the events of the end of one watched process. connector.mu guards its fields except process.
type exitEvents struct {
	process Process
	code    int           // as in waitpid(2)
	heard   bool          // code is of the first thread: the code of the process, unless another thread ended it
	early   bool          // other threads still ran at that time
	lost    bool          // events may have been lost
	told    time.Duration // monotonic time at which another source reported the end; 0 before
	done    bool          // collects no more events; it is not in watched
}

const (
	// exitWait is the longest delay of an event after the end of its process.
	exitWait = 100 * time.Millisecond
	// threadsWait is the longest delay of the events of other threads after the event of the first thread.
	threadsWait = 10 * time.Millisecond
	// drainPause is the time between two reads of the socket. On a machine that starts many processes, latchfs
	// does not wake for each of them.
	drainPause = 50 * time.Millisecond
	// connectorBuffer is the size of the socket buffer in bytes. It holds about 4,000 events.
	connectorBuffer = 4 << 20
)

// From linux/connector.h and linux/cn_proc.h.
const (
	connectorProcesses = 1 // CN_IDX_PROC, CN_VAL_PROC and the multicast group
	listenOperation    = 1 // PROC_CN_MCAST_LISTEN
	ignoreOperation    = 2 // PROC_CN_MCAST_IGNORE
	eventNone          = 0 // PROC_EVENT_NONE: the answer to an operation
	eventExit          = 0x80000000
)

// Offsets in a message, in bytes. It consists of struct nlmsghdr, struct cn_msg and struct proc_event.
const (
	messageStart = unix.SizeofNlMsghdr // of cn_msg
	messageAck   = messageStart + 12
	messageLen   = messageStart + 16
	messageData  = messageStart + 20
	eventWhat    = messageData
	eventTime    = messageData + 8 // in ns, CLOCK_MONOTONIC
	answerError  = messageData + 16
	exitThread   = messageData + 16
	exitProcess  = messageData + 20
	exitCode     = messageData + 24
	messageEnd   = messageData + 64 // or earlier
)

// newConnector opens the socket. It fails without CAP_NET_ADMIN (Linux 6.6 and later may not require it), outside the
// initial user, pid and network namespaces, and if the kernel has no process events.
func newConnector() (*connector, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, fmt.Errorf("process events: %w", err)
	}
	c := &connector{fd: fd, watched: make(map[int][]*exitEvents)}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, connectorBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, connectorBuffer) // up to a limit
	}
	filter := exitFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	}
	if err == nil {
		err = c.try()
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("process events: %w", err)
	}
	return c, nil
}

// exitFilter passes the exits of first threads, the exits of other threads with a status other than 0, and answers.
// The kernel writes numbers in the byte order of the machine, and the filter loads them in network byte order.
func exitFilter() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	exit := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, eventExit))
	const equal = unix.BPF_JMP | unix.BPF_JEQ
	return []unix.SockFilter{
		load(eventWhat),
		{Code: equal | unix.BPF_K, K: eventNone, Jt: 7}, // accept
		{Code: equal | unix.BPF_K, K: exit, Jf: 7},      // or drop
		load(exitThread),
		{Code: unix.BPF_MISC | unix.BPF_TAX},
		load(exitProcess),
		{Code: equal | unix.BPF_X, Jt: 2}, // accept
		load(exitCode),
		{Code: equal | unix.BPF_K, K: 0, Jt: 1}, // drop
		{Code: unix.BPF_RET | unix.BPF_K, K: messageEnd},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
}

// try reports an error if the kernel sends no events. A kernel that sends events answers the request to listen.
func (c *connector) try() error {
	var number [4]byte
	_, _ = rand.Read(number[:]) // never fails
	ack := binary.NativeEndian.Uint32(number[:])
	if err := c.listen(ack); err != nil {
		return err
	}
	defer c.ignore()
	for {
		n, err := unix.Read(c.fd, c.buffer[:])
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS):
		case errors.Is(err, unix.EAGAIN):
			return errors.New("the kernel does not answer")
		case err != nil:
			return err
		case n >= answerError+4 && c.field(eventWhat) == eventNone && c.field(messageAck) == ack+1:
			if code := c.field(answerError); code != 0 {
				return unix.Errno(code)
			}
			return nil
		}
	}
}

// listen asks the kernel to send events.
func (c *connector) listen(ack uint32) error {
	if err := unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, connectorProcesses); err != nil {
		return err
	}
	return c.ask(listenOperation, ack)
}

// ignore asks the kernel to stop sending events, and leaves the group: if another process listens, the kernel still
// sends events to the members of the group.
func (c *connector) ignore() {
	// After a failure, useless events arrive.
	_ = c.ask(ignoreOperation, 0)
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, connectorProcesses)
}

func (c *connector) ask(operation, ack uint32) error {
	var message [messageData + 4]byte
	put := binary.NativeEndian.PutUint32
	put(message[0:], uint32(len(message)))
	binary.NativeEndian.PutUint16(message[4:], unix.NLMSG_DONE)
	put(message[messageStart:], connectorProcesses)
	put(message[messageStart+4:], connectorProcesses)
	put(message[messageAck:], ack)
	binary.NativeEndian.PutUint16(message[messageLen:], 4)
	put(message[messageData:], operation)
	return unix.Sendto(c.fd, message[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// field returns the number at an offset of the message in the buffer.
func (c *connector) field(offset int) uint32 { return binary.NativeEndian.Uint32(c.buffer[offset:]) }

// watch listens for the end of p. The caller then verifies that p still runs.
func (c *connector) watch(p Process) *exitEvents {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &exitEvents{process: p}
	if c.closed {
		e.done = true
		return e
	}
	if len(c.watched) == 0 && c.listen(0) != nil {
		e.done = true
		return e
	}
	c.drain() // drop the events of earlier processes with the pid
	c.watched[p.PID] = append(c.watched[p.PID], e)
	return e
}

// forget stops collecting events in e. Its exit status stays unknown if no event has reported it.
func (c *connector) forget(e *exitEvents) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(e)
}

func (c *connector) finish(e *exitEvents) {
	if e.done {
		return
	}
	e.done = true
	pid := e.process.PID
	rest := slices.DeleteFunc(c.watched[pid], func(other *exitEvents) bool { return other == e })
	if c.watched[pid] = rest; len(rest) == 0 {
		delete(c.watched, pid)
	}
	if len(c.watched) == 0 && !c.closed {
		c.ignore()
	}
}

// ended notes that another source has reported the end of the process.
func (c *connector) ended(e *exitEvents) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.told = monotonic()
}

// exitOf returns how an ended process ended. It waits for the exit event, which seldom takes a
// millisecond.
func (c *connector) exitOf(e *exitEvents) Exit {
	for asked := time.Now(); ; time.Sleep(time.Millisecond) {
		if exit, known := c.heardOf(e, time.Since(asked)); known {
			return exit
		}
	}
}

func (c *connector) heardOf(e *exitEvents, waited time.Duration) (exit Exit, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !e.done {
		c.drain()
	}
	switch {
	case e.done, e.lost, c.closed, waited >= exitWait:
	case !e.heard, e.early && e.code == 0 && waited < threadsWait:
		return ExitUnknown, false
	}
	c.finish(e)
	if e.heard && !e.lost {
		return exitFromStatus(e.code), true
	}
	return ExitUnknown, true
}

func (c *connector) drainAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
}

// drain processes all events that have arrived.
func (c *connector) drain() {
	lost := false
	for !c.closed {
		n, err := unix.Read(c.fd, c.buffer[:])
		lost = lost || errors.Is(err, unix.ENOBUFS)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS) {
			continue
		} else if err != nil {
			break // there is no more
		}
		if n >= exitCode+4 && c.field(eventWhat) == eventExit {
			c.hear(int(c.field(exitThread)), int(c.field(exitProcess)), int(int32(c.field(exitCode))),
				time.Duration(binary.NativeEndian.Uint64(c.buffer[eventTime:])))
		}
	}
	if !lost {
		return
	}
	for _, all := range c.watched {
		for _, e := range all {
			e.lost = e.lost || (!e.heard || e.code == 0) && hasEnded(e.process)
		}
	}
}

// hear processes the event that a thread of a process has ended.
func (c *connector) hear(thread, pid, code int, at time.Duration) {
	for _, e := range c.watched[pid] {
		switch {
		case e.told != 0 && at > e.told+exitWait: // another process with that pid
		case thread != pid:
			if e.heard && e.code == 0 {
				e.code = code
			}
		case e.heard:
			// One of the two events belongs to a thread that another thread replaced by an exec.
			e.lost = e.lost || code != e.code
		default:
			stat, err := readStat(pid)
			there := err == nil && stat.startTime == e.process.StartTime
			if there && stat.state != 'Z' && stat.state != 'X' {
				continue // the event is of a thread replaced by an exec, or of an earlier process with the pid
			}
			e.heard, e.code, e.early = true, code, there && !stat.ended()
		}
	}
}

func (c *connector) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if len(c.watched) > 0 {
		c.ignore()
	}
	c.closed = true
	unix.Close(c.fd)
}

// monotonic returns the time of CLOCK_MONOTONIC, which events use.
func monotonic() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // never fails
	return time.Duration(now.Nano())
}
