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
const DescriptorKeeperName = "latchfs-anchor"

// server is the process that answers for the mount now, 0 while there is none.
func (m *Mount) Server() int {
	for _, pid := range Children(m.Keeper.Process.Pid) {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) != DescriptorKeeperName && !HasEnded(pid) { // a notifier has ended with its server
			return pid
		}
	}
	return 0
}

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

// killServer kills the server there is, and says which that was.
func (m *Mount) KillServer() int {
	m.T.Helper()
	return m.EndServer(unix.SIGKILL)
}

// endServer ends the server there is by a signal, and says which that was.
func (m *Mount) EndServer(by unix.Signal) int {
	m.T.Helper()
	pid := 0
	Eventually(m.T, "there is a server", func() bool { pid = m.Server(); return pid != 0 })
	Kill(m.T, pid, by)
	return pid
}

// killers kill the server again and again until stop is closed.
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

// killerVariable has the server of every mount killed again and again.
const KillServersVariable = "LATCHFS_TEST_KILLER"

// eventuallyServed waits until there is a server that answers.
func (m *Mount) WaitUntilServed() {
	m.T.Helper()
	Eventually(m.T, "the mount is served", func() bool { return Exists(m.Path(".latchfs/status")) })
}

// leftNothing checks that the locks of processes that have ended are gone, and that the mount still
// has its first connection.
func (m *Mount) CheckNothingLeft() {
	m.T.Helper()
	Eventually(m.T, "nothing is locked", func() bool { return len(m.Locks()) == 0 })
	if len(m.Logged("mounting anew")) != 0 {
		m.T.Error("it was mounted anew")
	}
}

// ended says that a process has ended, be it reaped by its parent or not.
func HasEnded(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	return ok && (rest[0] == 'Z' || rest[0] == 'X')
}
