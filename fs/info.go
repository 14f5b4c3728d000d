package fs

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// Status is what latchfs says of itself, in .latchfs/status.
type Status struct {
	Version             string    `json:"version"`
	PID                 int       `json:"pid"`                   // of the keeper
	ServerPID           int       `json:"server_pid"`            // the process that answers
	DescriptorKeeperPID int       `json:"descriptor_keeper_pid"` // keeps its descriptors open; 0 if the mount dies with the server
	StateDir            string    `json:"state_dir"`
	BootID              string    `json:"boot_id"`
	Started             time.Time `json:"started"`
	LockPatterns        []string  `json:"lock_patterns"`
	StaleAfter          int       `json:"stale_after"` // seconds; 0 is never
	MaxHold             int       `json:"max_hold"`    // seconds; 0 is no limit
	// DiesWithServer says why the mount does not outlive the server; "" if it does.
	DiesWithServer string `json:"dies_with_server,omitempty"`
	// ExitStatus says how it is known how a holder ended that its parent has reaped: "pidfd", "connector" or "unknown".
	ExitStatus  string `json:"exit_status"`
	Passthrough bool   `json:"passthrough"`
	Inodes      int    `json:"inodes"`
	Handles     int    `json:"handles"`
	Goroutines  int    `json:"goroutines"`
	Locks       int    `json:"locks"`
	Waiting     int    `json:"waiting"` // readers of .latchfs/wait whose turn it is not yet
}

// LockInfo is one lock in .latchfs/locks.json, in latchfs ls and latchfs scan.
type LockInfo struct {
	Name       string      `json:"name"`
	Kind       string      `json:"kind"`
	Generation uint64      `json:"generation"` // 0 without a record
	Made       time.Time   `json:"made"`
	Verdict    string      `json:"verdict"` // live, stale, unknown or settled
	Reason     string      `json:"reason,omitempty"`
	Rule       string      `json:"rule"`
	Evidence   string      `json:"evidence"`
	Open       bool        `json:"open"` // the descriptor it was made with
	Holder     ProcessInfo `json:"holder"`
	// HolderEnded says that the holder has ended: an inherited descriptor holds the lock, or the holder
	// left it.
	HolderEnded bool `json:"holder_ended,omitempty"`
	// OpenedBy are the processes that have the descriptor of a lock whose holder has ended. Only in
	// .latchfs/lock, and nil if none is seen.
	OpenedBy []ProcessInfo `json:"opened_by,omitempty"`
	// Since is from when the age of an unknown lock counts: when it was last written or its time set.
	Since     *time.Time  `json:"since,omitempty"`
	Creator   ProcessInfo `json:"creator"`
	BootID    string      `json:"boot_id"`
	MachineID string      `json:"machine_id"`
	// Payload is what the file holds: empty, naming or data. Only of files without a record.
	Payload string `json:"payload,omitempty"`
	// ReclaimedAt is when a stale lock was removed; nil for one that is there.
	ReclaimedAt *time.Time `json:"reclaimed_at,omitempty"`
	// LockedBy are the processes that hold flock(2) or fcntl(2) locks on the file.
	LockedBy []KernelLock `json:"locked_by,omitempty"`
}

// EventInfo is a line of .latchfs/events, as JSON.
type EventInfo struct {
	Time time.Time `json:"time"`
	// Event is acquired, contended, refused, passed, moved, settled, released, reaped or turn; lost if the reader was too
	// slow, and restarted if another server of latchfs goes on: what happened between is not told.
	Event      string      `json:"event"`
	Name       string      `json:"name,omitempty"`
	Kind       string      `json:"kind,omitempty"`
	Generation uint64      `json:"generation,omitempty"`
	Reason     string      `json:"reason,omitempty"` // of reaped
	Holder     ProcessInfo `json:"holder"`
	By         ProcessInfo `json:"by"`               // who contended or was refused, or whose turn it is
	Waited     float64     `json:"waited,omitempty"` // by whose turn it is, in seconds
	Lost       uint64      `json:"lost,omitempty"`   // how many
}

// KernelLock is a lock on the content of a file, as proc_locks(5) shows it.
type KernelLock struct {
	// OpenedBy are the processes that have its descriptor, if the process that took it has not.
	OpenedBy []ProcessInfo `json:"opened_by,omitempty"`
	Type     string        `json:"type"`   // FLOCK, POSIX or OFDLCK
	Access   string        `json:"access"` // READ or WRITE
	PID      int           `json:"pid"`    // -1 for an open file description (OFDLCK)
	Command  string        `json:"command,omitempty"`
	Waiting  bool          `json:"waiting,omitempty"`
}

// ReclaimedInfo is one file in .latchfs/reclaimed.
type ReclaimedInfo struct {
	Name       string    `json:"name"`
	Generation uint64    `json:"generation"`
	Time       time.Time `json:"time"`
	Reason     string    `json:"reason,omitempty"`
	Size       int64     `json:"size"` // bytes
	File       string    `json:"file"` // where it is kept
}

// ProcessInfo is a process in .latchfs/locks.json; a pid of 0 is nobody.
type ProcessInfo struct {
	PID          int    `json:"pid"`
	StartTime    uint64 `json:"start_time"` // clock ticks since boot
	PIDNamespace uint64 `json:"pid_namespace"`
	NSPID        int    `json:"ns_pid"`
	UID          uint32 `json:"uid"`
	Command      string `json:"command"`
}

// ProcessInfoOf describes p.
func ProcessInfoOf(p bootid.Process) ProcessInfo {
	return ProcessInfo{p.PID, p.StartTime, p.PIDNamespace, p.NSPID, p.UID, p.Command}
}

func entryInfo(e lockstore.Entry) LockInfo {
	info := LockInfoOf(e.Lock, e.Judgment)
	info.Open = e.Open
	info.HolderEnded = e.Verdict == verdict.Live && e.Judgment.Rule == verdict.RuleDescriptor || e.Reason == verdict.Left
	if !e.Since.IsZero() {
		info.Since = &e.Since
	}
	return info
}

// LockInfoOf describes l, with a judgment.
func LockInfoOf(l lockstore.Lock, j verdict.Judgment) LockInfo {
	return LockInfo{
		Name: l.Name, Kind: string(l.Kind), Generation: l.Generation, Made: l.Made,
		Verdict: j.Verdict.String(), Reason: string(j.Reason), Rule: string(j.Rule), Evidence: j.Evidence,
		Holder: ProcessInfoOf(l.Holder), Creator: ProcessInfoOf(l.Creator),
		BootID: l.BootID, MachineID: l.MachineID,
	}
}
