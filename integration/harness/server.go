//go:build linux

package harness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// DescriptorKeeperName is the kernel's name (/proc/PID/comm) of the process that keeps the descriptors of a
// server that has died. The server sets it in fs/descriptor_keeper.go.
const DescriptorKeeperName = "latchfs-keepfds"

// Server returns the pid of the process that serves the mount now, 0 while there is none.
func (m *Mount) Server() int {
	for _, pid := range Children(m.Keeper.Process.Pid) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) != DescriptorKeeperName && !HasEnded(pid) {
			return pid
		}
	}
	return 0
}

// Children returns the pids of the children of a process.
func Children(pid int) (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)
		_, rest, _ := strings.Cut(string(text), ") ")
		if fields := strings.Fields(rest); len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, child)
		}
	}
	return pids
}

// KillServer kills the current server and returns its pid.
func (m *Mount) KillServer() int {
	m.T.Helper()
	return m.EndServer(unix.SIGKILL)
}

// EndServer ends the current server by a signal and returns its pid.
func (m *Mount) EndServer(by unix.Signal) int {
	m.T.Helper()
	pid := 0
	Eventually(m.T, "there is a server", func() bool { pid = m.Server(); return pid != 0 })
	Kill(m.T, pid, by)
	return pid
}

// KillServerRepeatedly kills the server, after pauses between least and most, until stop is closed. The function
// that it returns waits for the end of that and returns how many servers were killed.
func (m *Mount) KillServerRepeatedly(stop <-chan struct{}, least, most time.Duration) (kills func() int) {
	done, count := make(chan struct{}), 0
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(least + rand.N(most-least)):
			}
			if pid := m.Server(); pid != 0 && unix.Kill(pid, unix.SIGKILL) == nil {
				count++
			}
		}
	}()
	return func() int { <-done; return count }
}

// KillServersVariable is an environment variable. If it is set, MountOver kills the servers of every mount
// repeatedly.
const KillServersVariable = "LATCHFS_TEST_KILLER"

// WaitUntilServed waits until a server answers.
func (m *Mount) WaitUntilServed() {
	m.T.Helper()
	Eventually(m.T, "the mount is served", func() bool { return Exists(m.Path(".latchfs/status")) })
}

// CheckNothingLeft waits until no lock is held, and fails the test if the server had to mount anew.
func (m *Mount) CheckNothingLeft() {
	m.T.Helper()
	var locks map[string]Lock
	defer func() {
		if len(locks) > 0 {
			m.T.Logf("locked: %+v", locks)
		}
	}()
	Eventually(m.T, "nothing is locked", func() bool { locks = m.Locks(); return len(locks) == 0 })
	if len(m.Logged("mounting again")) != 0 {
		m.T.Error("it was mounted anew")
	}
}

// HasEnded reports whether a process has ended. Its parent may not have waited for it yet.
func HasEnded(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	return ok && (rest[0] == 'Z' || rest[0] == 'X')
}
