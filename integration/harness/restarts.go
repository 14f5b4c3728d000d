//go:build linux

package harness

import (
	"golang.org/x/sys/unix"
)

// A Restart replaces the processes of a mount and keeps its state directory.
type Restart struct {
	Name string
	Do   func(m *Mount)
}

// Restarts lists the restarts that a verdict must survive. The first one does nothing.
var Restarts = []Restart{
	{"without a restart", func(*Mount) {}},
	{"server killed", func(m *Mount) {
		m.KillServer()
		m.WaitUntilServed()
	}},
	{"new mount", func(m *Mount) {
		m.Unmount()
		m.Start()
	}},
	{"keeper and server killed", func(m *Mount) {
		for _, pid := range m.ServerProcesses() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		m.Kill()
		m.Start()
	}},
}
