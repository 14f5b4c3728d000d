package bootid

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoProcess means that no such process runs: there is none of that number,
// or it has ended and only waits to be reaped by its parent.
var ErrNoProcess = errors.New("no such process")

// ErrHidden means that the process exists, or may, and cannot be looked at: /proc is
// mounted with hidepid or belongs to another pid namespace.
var ErrHidden = errors.New("the process cannot be looked at")

// Process identifies one process of one boot. The zero Process is nobody: an
// unidentified caller.
type Process struct {
	// BootID is the boot the process runs under; empty if unknown.
	BootID string
	// PID is the process id in the pid namespace of whoever read it.
	PID int
	// StartTime is field 22 of proc_pid_stat(5), in clock ticks since boot.
	StartTime uint64
	// PIDNamespace is the inode number of the process's pid namespace, 0 if it
	// could not be read. Numbers are used again by the kernel.
	PIDNamespace uint64
	// NSPID is the process id inside that namespace.
	NSPID int
	// UID is the user the process acts as.
	UID uint32
	// Command is the kernel's name of it, at most 15 bytes, for people.
	Command string
	// Group is the process group it was in when it was read, in the pid namespace of the reader;
	// 0 if unknown.
	Group int
	// Session is its session, likewise. It is 0 for a session with a controlling terminal: a login session
	// says nothing of what belongs together.
	Session int
	// Manager says that it is a kernel thread, process 1, or a service or session manager that is known
	// by its command. It holds only locks that it made itself. The first process of a container is
	// often the program that the container is for, and is none.
	Manager bool
}

// Known says that p is a process and not the zero value.
func (p Process) Known() bool { return p.PID > 0 }

// Same says that p and other are one process: pid and start time agree, and so
// do the boot ids unless one is unknown.
func (p Process) Same(other Process) bool {
	return p.Known() && p.PID == other.PID && p.StartTime == other.StartTime &&
		(p.BootID == other.BootID || p.BootID == "" || other.BootID == "")
}

// String is the form used in logs: pid, command and start time.
func (p Process) String() string {
	if !p.Known() {
		return "unidentified"
	}
	return fmt.Sprintf("%d(%s)@%d", p.PID, p.Command, p.StartTime)
}

// Namespace identifies a pid namespace of a boot; zero fields are unknown.
type Namespace struct {
	// Inode is its number. Numbers are used again by the kernel.
	Inode uint64
	// Started is the start time of its process 1, in clock ticks since boot.
	Started uint64
}

// Initial says that it is the one the machine booted with (PROC_PID_INIT_INO,
// linux/proc_ns.h), from which all processes are seen.
func (n Namespace) Initial() bool { return n.Inode == 0xEFFFFFFC }

// System is what lock decisions need to know of a machine. [Host] asks the
// running kernel. Every method may be called from many goroutines.
type System interface {
	// Boot is the boot that processes of this System run under.
	Boot() Boot
	// Namespace is the pid namespace in which the numbers of processes are meant.
	Namespace() Namespace
	// NamespaceEnded says that the pid namespace p lived in, another than that, is gone, and
	// with it all that lived in it: the kernel kills them when its first process ends.
	NamespaceEnded(p Process) bool
	// Process describes the process pid of the caller's own pid namespace, or
	// returns ErrNoProcess or ErrHidden.
	Process(pid int) (Process, error)
	// InNamespace finds the process that has the number pid in the pid namespace
	// that of lives or lived in, or returns ErrNoProcess or ErrHidden.
	InNamespace(pid int, of Process) (Process, error)
	// InOtherNamespace says that a process in a pid namespace other than the
	// caller's own that may have run at the time at has the number pid there, or that
	// it cannot be known.
	InOtherNamespace(pid int, at time.Time) bool
	// Parent identifies the parent of p: boot, pid and start time only. It
	// returns ErrNoProcess if p has ended or has no parent that can be seen.
	Parent(p Process) (Process, error)
	// Ancestors are those of p that may stand in for it, the parent first: up to
	// the first process of a container, or short of process 1, a subreaper or a session manager,
	// none of which is among them. What cannot be seen is left out.
	Ancestors(p Process) []Process
	// Exiting says that all threads of p have begun to exit. The kernel closes a
	// process's descriptors after that and before its end is told.
	Exiting(p Process) bool
	// Doomed says that p has ended, or is about to: a signal that ends it is pending, so that it
	// runs no more instruction of its own.
	Doomed(p Process) bool
	// Hostname is the name of this machine, empty if unknown.
	Hostname() string
	// StartedAt is the wall-clock time at which p started, as the clock is set
	// now; good to a clock tick (10 ms).
	StartedAt(p Process) time.Time
	// HasOpen says that p has a descriptor open on the file whose path ends in
	// suffix.
	HasOpen(p Process, suffix string) bool
	// OpenedBy returns the processes that have a descriptor open on the file whose path ends in suffix, as
	// far as they can be seen. It looks at all processes.
	OpenedBy(suffix string) []Process
	// Relatives returns the pids of the parent and of the children that p has now; 0 and nil if p has
	// ended, and nil where the kernel does not list children. It is quick.
	Relatives(p Process) (parent int, children []int)
	// GroupRuns says that a process of p's process group or, if that is known, of its session runs. If it
	// cannot be known the result is true. It looks at all processes.
	GroupRuns(p Process) bool
	// SameHost says that p runs and is known to have the host name of this process: they share a UTS
	// namespace.
	SameHost(p Process) bool
	// Watch calls ended once when p has ended, from a goroutine that must not be
	// held up. If p has ended already it returns ErrNoProcess.
	Watch(p Process, ended func()) (Watch, error)
}

// Watch is an observation of one process. Its methods may be called from many
// goroutines.
type Watch interface {
	// Ended asks the kernel now, without waiting for the event.
	Ended() bool
	// Exit says how the process ended; ExitUnknown while it runs, and where the
	// kernel does not tell.
	Exit() Exit
	// Stop ends the observation and frees what it holds; ended may still be on
	// its way then.
	Stop()
}

// Exit is how a process ended.
type Exit int

const (
	// ExitUnknown: it has not ended, or the kernel does not say how.
	ExitUnknown Exit = iota
	// ExitSuccess: it called exit(2) with status 0.
	ExitSuccess
	// ExitFailure: it called exit(2) with another status.
	ExitFailure
	// ExitSignal: a signal ended it, SIGKILL and crashes among them.
	ExitSignal
)
