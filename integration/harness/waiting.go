//go:build linux

package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// IsWaiting reports whether a thread of a process waits for the answer of a FUSE filesystem.
func IsWaiting(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	return slices.ContainsFunc(threads, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "request_wait_answer")
	})
}

// WaitFile returns the path of the control file in which a process waits for its turn to take name.
func (m *Mount) WaitFile(name string) string { return m.Path(".latchfs/wait/" + name) }

// WaitForWaiters waits until n processes wait in control files.
func (m *Mount) WaitForWaiters(n int) {
	m.T.Helper()
	Eventually(m.T, fmt.Sprintf("%d processes wait", n), func() bool { return StatusNumber(m.T, m.Path(".latchfs/status"), `  "waiting":`) == n })
}
