//go:build linux

package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// waitsForAnswer says that a thread of a process waits for what a filesystem answers.
func IsWaiting(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/wchan", pid))
	return slices.ContainsFunc(threads, func(file string) bool {
		text, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(text), "request_wait_answer")
	})
}

// wait is the file that answers whose turn it is to take name.
func (m *Mount) WaitFile(name string) string { return m.Path(".latchfs/wait/" + name) }

// eventuallyWaiting waits until so many wait.
func (m *Mount) WaitForWaiters(n int) {
	m.T.Helper()
	Eventually(m.T, fmt.Sprintf("%d wait", n), func() bool { return StatusNumber(m.T, m.Path(".latchfs/status"), `  "waiting":`) == n })
}
