package fs

import "time"

// Status is what latchfs says of itself, in .latchfs/status.
type Status struct {
	Version      string    `json:"version"`
	PID          int       `json:"pid"`
	StateDir     string    `json:"state_dir"`
	BootID       string    `json:"boot_id"`
	Started      time.Time `json:"started"`
	LockPatterns []string  `json:"lock_patterns"`
	Passthrough  bool      `json:"passthrough"`
	Inodes       int       `json:"inodes"`
	Handles      int       `json:"handles"`
}

// LockInfo is one lock in .latchfs/locks.json.
type LockInfo struct {
	Name       string      `json:"name"`
	Generation uint64      `json:"generation"`
	Made       time.Time   `json:"made"`
	Verdict    string      `json:"verdict"`
	Reason     string      `json:"reason,omitempty"`
	Rule       string      `json:"rule"`
	Evidence   string      `json:"evidence"`
	Open       bool        `json:"open"`
	Holder     ProcessInfo `json:"holder"`
	Creator    ProcessInfo `json:"creator"`
	BootID     string      `json:"boot_id"`
	MachineID  string      `json:"machine_id"`
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
