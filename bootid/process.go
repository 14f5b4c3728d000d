package bootid

import (
	"errors"
	"fmt"
	"time"
)

// ErrNoProcess means that the process does not run: no process has the pid, or the process is a zombie that its
// parent has not reaped.
var ErrNoProcess = errors.New("no such process")

// ErrHidden means that the process exists or may exist, but /proc does not show it: /proc is
// mounted with hidepid or belongs to another pid namespace.
var ErrHidden = errors.New("the process cannot be looked at")

// Process identifies one process of one boot. The zero Process is an
// unidentified caller.
type Process struct {
	// BootID is the boot the process runs under; empty if unknown.
	BootID string
	// PID is the process id in the pid namespace of the reader.
	PID int
	// StartTime is field 22 of proc_pid_stat(5), in clock ticks since boot.
	StartTime uint64
	// PIDNamespace is the inode number of the process's pid namespace, 0 if it
	// could not be read. The kernel reuses inode numbers.
	PIDNamespace uint64
	// NSPID is the process id inside the process's own pid namespace.
	NSPID int
	// UID is the user the process acts as.
	UID uint32
	// Command is the kernel's name of the process, at most 15 bytes. It is for display.
	Command string
	// Group is the process group at the time of reading, in the pid namespace of the reader;
	// 0 if unknown.
	Group int
	// Session is the session at the time of reading, in the pid namespace of the reader; 0 if unknown. It is also 0
	// for a session with a controlling terminal: the processes of a login session need not belong together.
	Session int
	// Manager reports whether the process is a kernel thread, process 1, or a service or session manager that is known
	// by its command. A manager holds only locks that it made itself. The first process of a container is
	// often the program that the container is for, so it is no manager.
	Manager bool
}

// Known reports whether p is a process and not the zero value.
func (p Process) Known() bool { return p.PID > 0 }

// Same reports whether p and other are one process: the pids, the start times and the boot ids are equal. An unknown
// boot id equals any other.
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
	// Inode is the inode number of the namespace. The kernel reuses inode numbers.
	Inode uint64
	// Started is the start time of process 1 of the namespace, in clock ticks since boot.
	Started uint64
}

// Initial reports whether n is the first pid namespace of the machine (PROC_PID_INIT_INO,
// linux/proc_ns.h). All processes are visible from it.
func (n Namespace) Initial() bool { return n.Inode == 0xEFFFFFFC }

// System answers the questions about a machine that lock decisions ask. [Host] asks the
// running kernel. Every method may be called from many goroutines.
type System interface {
	// Boot is the boot that processes of this System run under.
	Boot() Boot
	// Namespace is the pid namespace of the pids that this System takes and returns.
	Namespace() Namespace
	// NamespaceEnded reports whether the pid namespace of p is provably gone with all its processes. It is false for
	// the namespace of this System. The kernel kills the processes of a namespace when its first process ends.
	NamespaceEnded(p Process) bool
	// Process describes the process pid of the caller's own pid namespace, or
	// returns ErrNoProcess or ErrHidden.
	Process(pid int) (Process, error)
	// InNamespace returns the process with the given pid in the pid namespace of the process of,
	// or returns ErrNoProcess or ErrHidden.
	InNamespace(pid int, of Process) (Process, error)
	// InOtherNamespace reports whether a process that may have run at the time at has the given pid in a pid
	// namespace other than the caller's own. If that cannot be known, the result is true.
	InOtherNamespace(pid int, at time.Time) bool
	// Parent identifies the parent of p: boot, pid and start time only. It
	// returns ErrNoProcess if p has ended or has no parent that can be seen.
	Parent(p Process) (Process, error)
	// Ancestors returns the ancestors of p that may act for it, the parent first. The chain ends with
	// the first process of a container, or before process 1, a subreaper or a session manager.
	// It also ends before an ancestor that cannot be read.
	Ancestors(p Process) []Process
	// Exiting reports whether all threads of p have begun to exit. The kernel then closes the
	// descriptors of the process, and reports its end afterwards.
	Exiting(p Process) bool
	// Doomed reports whether p has ended or a fatal signal is pending, so that p
	// runs no further instruction of its own.
	Doomed(p Process) bool
	// Hostname is the name of this machine, empty if unknown.
	Hostname() string
	// StartedAt is the wall-clock time at which p started, by the current setting of the
	// clock. It is accurate to a clock tick (10 ms).
	StartedAt(p Process) time.Time
	// HasOpen reports whether p has a descriptor open on a file whose path ends in
	// suffix.
	HasOpen(p Process, suffix string) bool
	// OpenedBy returns the visible processes that have a descriptor open on a file whose path ends in suffix.
	// It scans all processes.
	OpenedBy(suffix string) []Process
	// Relatives returns the pids of the parent and of the children that p has now; 0 and nil if p has
	// ended, and nil if the kernel does not list children. It does not scan all processes.
	Relatives(p Process) (parent int, children []int)
	// GroupRuns reports whether a process of p's process group or of its session (if known) runs. If that
	// cannot be known, the result is true. It scans all processes.
	GroupRuns(p Process) bool
	// SameHost reports whether p runs and provably shares its UTS namespace, and so its host name, with this
	// process.
	SameHost(p Process) bool
	// Watch calls ended once when p has ended. The callback must not block: it runs in the goroutine that serves all
	// watches. If p has already ended, Watch returns ErrNoProcess.
	Watch(p Process, ended func()) (Watch, error)
}

// Watch is an observation of one process. Its methods may be called from many
// goroutines.
type Watch interface {
	// Ended reports whether the process has ended. It asks the kernel and does not wait for the event.
	Ended() bool
	// Exit returns how the process ended. It returns ExitUnknown while the process runs, and if the
	// kernel does not report the status.
	Exit() Exit
	// Stop ends the observation and frees its resources. A call of ended may still be in
	// progress when Stop returns.
	Stop()
}

// Exit is how a process ended.
type Exit int

const (
	// ExitUnknown means that the process runs, or that the kernel does not report how it ended.
	ExitUnknown Exit = iota
	// ExitSuccess means that the process called exit(2) with status 0.
	ExitSuccess
	// ExitFailure means that the process called exit(2) with another status.
	ExitFailure
	// ExitSignal means that a signal ended the process. SIGKILL and crashes are included.
	ExitSignal
)
