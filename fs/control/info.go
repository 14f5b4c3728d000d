package control

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// Status describes the mount, in .latchfs/status.
type Status struct {
	Version             string    `json:"version"`
	PID                 int       `json:"pid"`                   // the keeper
	ServerPID           int       `json:"server_pid"`            // the process that answers requests
	DescriptorKeeperPID int       `json:"descriptor_keeper_pid"` // 0 if the mount dies with the server
	StateDir            string    `json:"state_dir"`
	BootID              string    `json:"boot_id"`
	Started             time.Time `json:"started"`
	LockPatterns        []string  `json:"lock_patterns"`
	StaleAfter          int       `json:"stale_after"` // seconds; 0 is never
	MaxHold             int       `json:"max_hold"`    // seconds; 0 is no limit
	// DiesWithServer is why the mount does not outlive the server; "" if it does.
	DiesWithServer string `json:"dies_with_server,omitempty"`
	// ExitStatus is the source of the exit status of a holder that its parent has waited for: "pidfd", "connector" or
	// "unknown".
	ExitStatus  string `json:"exit_status"`
	Passthrough bool   `json:"passthrough"`
	Inodes      int    `json:"inodes"`
	Handles     int    `json:"handles"`
	Goroutines  int    `json:"goroutines"`
	Locks       int    `json:"locks"`
	Waiting     int    `json:"waiting"` // readers of .latchfs/wait whose turn has not come
}

// LockInfo is a lock in .latchfs/locks.json, latchfs ls and latchfs scan.
type LockInfo struct {
	Name       string      `json:"name"`
	Kind       string      `json:"kind"`
	Generation uint64      `json:"generation"` // 0 without a record
	Made       time.Time   `json:"made"`
	Verdict    string      `json:"verdict"` // live, stale, unknown or settled
	Reason     string      `json:"reason,omitempty"`
	Rule       string      `json:"rule"`
	Evidence   string      `json:"evidence"`
	Open       bool        `json:"open"` // the descriptor with which it was made is open
	Holder     ProcessInfo `json:"holder"`
	// HolderEnded says that the holder has ended, and that an inherited descriptor holds the lock or the holder left it
	// behind.
	HolderEnded bool `json:"holder_ended,omitempty"`
	// OpenedBy are the processes that have the descriptor of a lock whose holder has ended. It is set only in
	// .latchfs/lock, and nil if no such process is visible.
	OpenedBy []ProcessInfo `json:"opened_by,omitempty"`
	// Since is the time from which the age of an unknown lock counts: when it was last written or its time set.
	Since     *time.Time  `json:"since,omitempty"`
	Creator   ProcessInfo `json:"creator"`
	BootID    string      `json:"boot_id"`
	MachineID string      `json:"machine_id"`
	// Payload is the form of the file's content: empty, naming or data. It is set only for files without a record.
	Payload string `json:"payload,omitempty"`
	// ReclaimedAt is when a stale lock was reaped; nil for a current lock.
	ReclaimedAt *time.Time `json:"reclaimed_at,omitempty"`
	// LockedBy are the processes that hold flock(2) or fcntl(2) locks on the file.
	LockedBy []KernelLock `json:"locked_by,omitempty"`
}

// EventInfo is a line of .latchfs/events, as JSON.
type EventInfo struct {
	Time time.Time `json:"time"`
	// Event is acquired, contended, refused, passed, moved, settled, released, reaped or turn. It is lost if the reader
	// was too slow, and restarted if another server goes on; events between the two servers are not reported.
	Event      string      `json:"event"`
	Name       string      `json:"name,omitempty"`
	Kind       string      `json:"kind,omitempty"`
	Generation uint64      `json:"generation,omitempty"`
	Reason     string      `json:"reason,omitempty"` // of a reaped lock
	Holder     ProcessInfo `json:"holder"`
	By         ProcessInfo `json:"by"`               // the process that contended, was refused, or has its turn
	Waited     float64     `json:"waited,omitempty"` // by the process that has its turn, in seconds
	Lost       uint64      `json:"lost,omitempty"`   // the number of lost events
}

// KernelLock is a lock on the content of a file, as proc_locks(5) shows it.
type KernelLock struct {
	// OpenedBy are the processes that have its descriptor, if the process that took it does not.
	OpenedBy []ProcessInfo `json:"opened_by,omitempty"`
	Type     string        `json:"type"`   // FLOCK, POSIX or OFDLCK
	Access   string        `json:"access"` // READ or WRITE
	PID      int           `json:"pid"`    // -1 for an open file description (OFDLCK)
	Command  string        `json:"command,omitempty"`
	Waiting  bool          `json:"waiting,omitempty"`
}

// ReclaimedInfo is a reaped file in .latchfs/reclaimed.
type ReclaimedInfo struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	Time       time.Time `json:"time"`
	Reason     string    `json:"reason,omitempty"`
	Size       int64     `json:"size"` // bytes
	File       string    `json:"file"` // where the copy is
}

// ProcessInfo is a process in .latchfs/locks.json; a pid of 0 is no process.
type ProcessInfo struct {
	PID          int    `json:"pid"`
	StartTime    uint64 `json:"start_time"` // clock ticks since boot
	PIDNamespace uint64 `json:"pid_namespace"`
	NSPID        int    `json:"ns_pid"`
	UID          uint32 `json:"uid"`
	Command      string `json:"command"`
}

// ProcessInfoOf returns the description of a process.
func ProcessInfoOf(p bootid.Process) ProcessInfo {
	return ProcessInfo{p.PID, p.StartTime, p.PIDNamespace, p.NSPID, p.UID, p.Command}
}

// EntryInfo returns the description of a lock in the store.
func EntryInfo(e lockstore.Entry) LockInfo {
	info := LockInfoOf(e.Lock, e.Judgment)
	info.Open = e.Open
	info.HolderEnded = e.Verdict == verdict.Live && e.Judgment.Rule == verdict.RuleDescriptor || e.Reason == verdict.Left
	if !e.Since.IsZero() {
		info.Since = &e.Since
	}
	return info
}

// LockInfoOf returns the description of a lock and its judgment.
func LockInfoOf(l lockstore.Lock, j verdict.Judgment) LockInfo {
	return LockInfo{
		Name: l.Name, Kind: string(l.Kind), Generation: l.Generation, Made: l.Made,
		Verdict: j.Verdict.String(), Reason: string(j.Reason), Rule: string(j.Rule), Evidence: j.Evidence,
		Holder: ProcessInfoOf(l.Holder), Creator: ProcessInfoOf(l.Creator),
		BootID: l.BootID, MachineID: l.MachineID,
	}
}
