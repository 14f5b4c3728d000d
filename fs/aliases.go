package fs

import "latchfs/fs/control"

// The JSON of the control files, and how names are printed, by their former names in this package.
type (
	EventInfo     = control.EventInfo
	KernelLock    = control.KernelLock
	LockInfo      = control.LockInfo
	ProcessInfo   = control.ProcessInfo
	ReclaimedInfo = control.ReclaimedInfo
	Status        = control.Status
)

var (
	LockInfoOf       = control.LockInfoOf
	Printable        = control.Printable
	PrintableJSON    = control.PrintableJSON
	PrintableMessage = control.PrintableMessage
	ProcessInfoOf    = control.ProcessInfoOf
)
