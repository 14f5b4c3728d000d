package bootid

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is USER_HZ, which the kernel fixes at 100 for every
// architecture Go runs on, whatever its own tick rate (time(7)).
const ticksPerSecond = 100

// Host is the System of the running kernel. It is safe for concurrent use.
type Host struct {
	boot      Boot
	namespace Namespace
	blind     bool   // /proc is missing or belongs to another pid namespace
	uts       string // target of the link /proc/self/ns/uts, empty if unknown
	threads   threadCache
	watcher   watcher
	others    otherNamespaces
}

var _ System = (*Host)(nil)

// NewHost reads the boot identity and returns a Host. It starts no goroutine
// before the first Watch.
func NewHost() *Host {
	self, err := os.Readlink("/proc/self")
	h := &Host{
		boot: ReadBoot(), namespace: Namespace{Inode: pidNamespace(os.Getpid())},
		blind: err != nil || self != strconv.Itoa(os.Getpid()),
	}
	h.uts, _ = os.Readlink("/proc/self/ns/uts")
	if first, err := readStat(1); err == nil && !h.blind {
		h.namespace.Started = first.startTime
	}
	return h
}

// Blind reports whether /proc is missing or belongs to another pid namespace, so that no process
// can be identified.
func (h *Host) Blind() bool { return h.blind }

// Close ends all watches and releases every descriptor.
func (h *Host) Close() {
	h.threads.close()
	h.watcher.close()
}

// Boot implements [System].
func (h *Host) Boot() Boot { return h.boot }

// Namespace implements [System].
func (h *Host) Namespace() Namespace { return h.namespace }

// Hostname implements [System].
func (h *Host) Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// Process implements [System].
func (h *Host) Process(pid int) (Process, error) {
	switch {
	case pid <= 0:
		return Process{}, ErrNoProcess
	case h.blind:
		return Process{}, ErrHidden
	}
	status, err := readStatus(pid)
	if err != nil {
		return Process{}, err
	}
	if status.tgid != pid {
		return Process{}, fmt.Errorf("%d is a thread: %w", pid, ErrNoProcess)
	}
	return h.describe(pid, status)
}

// describe returns the process of the thread tid, from the status of the thread and the stat of the
// process.
func (h *Host) describe(tid int, status procStatus) (Process, error) {
	stat, err := readStat(status.tgid)
	if err != nil {
		return Process{}, err
	}
	if stat.ended() {
		return Process{}, ErrNoProcess
	}
	return Process{
		BootID:       h.boot.ID,
		PID:          status.tgid,
		StartTime:    stat.startTime,
		PIDNamespace: pidNamespace(tid),
		NSPID:        status.nspid(),
		UID:          status.uid,
		Command:      stat.command,
		Group:        stat.group,
		Session:      stat.ownSession(),
		Manager:      stat.manages() || status.tgid == 1,
	}, nil
}

// InNamespace implements [System]. In the caller's own namespace it makes one
// lookup. For another namespace it scans every process, because the kernel has no
// index by foreign pids.
func (h *Host) InNamespace(pid int, of Process) (Process, error) {
	if pid <= 0 || !of.Known() {
		return Process{}, ErrNoProcess
	}
	if of.PIDNamespace == 0 || of.PIDNamespace == h.namespace.Inode {
		if of.PIDNamespace == 0 && of.NSPID != of.PID {
			return Process{}, ErrNoProcess // the namespace of the process cannot be identified
		}
		return h.Process(pid)
	}
	found := Process{}
	err := h.eachProcess(func(candidate int) bool {
		if pidNamespace(candidate) != of.PIDNamespace {
			return true
		}
		p, err := h.Process(candidate)
		if err == nil && p.NSPID == pid && p.PIDNamespace == of.PIDNamespace {
			found = p
		}
		return !found.Known()
	})
	if err == nil && !found.Known() {
		err = ErrNoProcess
	}
	return found, err
}

// eachProcess calls visit with the pid of every process until visit returns false.
func (h *Host) eachProcess(visit func(pid int) bool) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil && !visit(pid) {
			break
		}
	}
	return nil
}

// StartedAt implements [System].
func (h *Host) StartedAt(p Process) time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	age := time.Duration(up.Nano()) - time.Duration(p.StartTime)*(time.Second/ticksPerSecond)
	return time.Now().Add(-age)
}

// HasOpen implements [System]. It reads the links in /proc/PID/fd and does not
// follow them, so it never touches the files themselves.
func (h *Host) HasOpen(p Process, suffix string) bool { return hasOpen(p.PID, suffix) }

func hasOpen(pid int, suffix string) bool {
	dir, err := os.Open("/proc/" + strconv.Itoa(pid) + "/fd")
	if err != nil {
		return false
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return false
	}
	for _, name := range names {
		target, err := os.Readlink(dir.Name() + "/" + name)
		if err == nil && strings.HasSuffix(target, suffix) {
			return true
		}
	}
	return false
}

// Groups returns the supplementary groups of the thread tid.
func (h *Host) Groups(tid int) ([]uint32, error) {
	status, err := readStatus(tid)
	return status.groups, err
}

// procStatus holds the fields of proc_pid_status(5) that latchfs reads.
type procStatus struct {
	tgid   int
	uid    uint32 // effective
	nspids []int  // outermost visible namespace first
	groups []uint32
}

// nspid is the process id in the innermost pid namespace.
func (s procStatus) nspid() int { return s.nspids[len(s.nspids)-1] }

func readStatus(tid int) (procStatus, error) {
	var buffer [procSize]byte
	text, err := readProc(tid, "status", buffer[:])
	if err != nil {
		return procStatus{}, err
	}
	return parseStatus(text)
}

// parseStatus parses the text of /proc/PID/status. The kernel escapes a newline in the
// command name, so each line is one field.
func parseStatus(text []byte) (procStatus, error) {
	var s procStatus
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		fields := strings.Fields(string(value))
		switch string(key) {
		case "Tgid", "NStgid":
			for i, field := range fields {
				n, err := strconv.Atoi(field)
				if err != nil {
					return procStatus{}, fmt.Errorf("process status: %s: %w", key, err)
				}
				if string(key) == "NStgid" {
					s.nspids = append(s.nspids, n)
				} else if i == 0 {
					s.tgid = n
				}
			}
		case "Uid":
			if len(fields) < 2 {
				return procStatus{}, errors.New("process status: Uid: too few fields")
			}
			uid, err := strconv.ParseUint(fields[1], 10, 32)
			if err != nil {
				return procStatus{}, fmt.Errorf("process status: Uid: %w", err)
			}
			s.uid = uint32(uid)
		case "Groups":
			for _, field := range fields {
				gid, err := strconv.ParseUint(field, 10, 32)
				if err != nil {
					return procStatus{}, fmt.Errorf("process status: Groups: %w", err)
				}
				s.groups = append(s.groups, uint32(gid))
			}
		}
	}
	if s.tgid <= 0 {
		return procStatus{}, errors.New("process status: no Tgid")
	}
	if len(s.nspids) == 0 { // a kernel without pid namespaces
		s.nspids = []int{s.tgid}
	}
	return s, nil
}

// StartTime returns the start time of the process pid in clock ticks since boot (proc_pid_stat(5)).
// It returns ErrNoProcess or ErrHidden like Process of [System].
func StartTime(pid int) (uint64, error) {
	stat, err := readStat(pid)
	return stat.startTime, err
}

func readStat(pid int) (procStat, error) {
	var buffer [procSize]byte
	text, err := readProc(pid, "stat", buffer[:])
	if err != nil {
		return procStat{}, err
	}
	return parseStat(text)
}

// procSize is a buffer size in bytes that is enough for most files of /proc/PID.
const procSize = 2048

// readProc reads /proc/PID/name, into buffer if the text fits. It returns ErrNoProcess if the process does not exist
// or ends during the read, and ErrHidden if the process exists but /proc does not show it (hidepid in proc(5)).
func readProc(pid int, name string, buffer []byte) ([]byte, error) {
	text, err := readOnce("/proc/"+strconv.Itoa(pid)+"/"+name, buffer)
	switch {
	case errors.Is(err, unix.ESRCH):
		return nil, ErrNoProcess
	case errors.Is(err, fs.ErrNotExist):
		if err := unix.Kill(pid, 0); err == nil || errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("process %d: %w", pid, ErrHidden)
		}
		return nil, ErrNoProcess
	case errors.Is(err, fs.ErrPermission): // hidepid=noaccess
		return nil, fmt.Errorf("process %d: %w", pid, ErrHidden)
	}
	return text, err
}

// readOnce reads a file of /proc/PID. The kernel generates the whole file at the first read. An os.File would need
// eight more system calls to find that the file does not support epoll.
func readOnce(path string, buffer []byte) (text []byte, err error) {
	fd := -1
	for {
		if fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text = buffer[:0]
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		}
		if text = text[:len(text)+n]; len(text) < cap(text) {
			return text, nil
		}
		text = append(text, make([]byte, len(text))...)[:len(text)]
	}
}

// pidNamespace returns the inode number of a thread's pid namespace, or 0 if the link cannot be read.
func pidNamespace(tid int) uint64 {
	link, err := os.Readlink("/proc/" + strconv.Itoa(tid) + "/ns/pid")
	if err != nil {
		return 0
	}
	text, ok := strings.CutPrefix(link, "pid:[")
	if !ok {
		return 0
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
	if err != nil {
		return 0
	}
	return inode
}
