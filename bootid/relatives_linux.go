package bootid

import (
	"os"
	"strconv"
	"strings"
)

// Children implements [System].
func (h *Host) Children(p Process) []Process {
	if stat, err := readStat(p.PID); h.blind || err != nil || stat.startTime != p.StartTime {
		return nil
	}
	tasks := "/proc/" + strconv.Itoa(p.PID) + "/task/"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return nil
	}
	var children []Process
	for _, thread := range threads {
		// A thread that has exited has left its children to another one.
		text, _ := os.ReadFile(tasks + thread.Name() + "/children")
		for _, number := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(number); err == nil {
				if child, err := h.Process(pid); err == nil {
					children = append(children, child)
				}
			}
		}
	}
	return children
}

// maxLooks is how often GroupRuns looks at all processes: one that ends while it looks may have
// started another behind its back.
const maxLooks = 3

// GroupRuns implements [System].
func (h *Host) GroupRuns(p Process) bool {
	if _, err := readStat(1); h.blind || err != nil || p.Group <= 0 {
		return true // processes may be hidden
	}
	for range maxLooks {
		runs, certain := h.groupRuns(p)
		if runs || certain {
			return runs
		}
	}
	return true
}

// groupRuns looks at all processes once. It is not certain that none runs if one could not be read.
func (h *Host) groupRuns(p Process) (runs, certain bool) {
	group, session, certain := false, false, true
	groupGone, sessionGone := false, p.Session == 0
	err := h.eachProcess(func(pid int) bool {
		stat, err := readStat(pid)
		if err != nil {
			certain = false
			return true
		}
		// The kernel gives no process the number of a group or session that exists.
		if stat.startTime > p.StartTime {
			groupGone = groupGone || pid == p.Group
			sessionGone = sessionGone || pid == p.Session
		}
		if !stat.ended() {
			group = group || stat.group == p.Group
			session = session || stat.session == p.Session
		}
		return true
	})
	return group && !groupGone || session && !sessionGone, certain && err == nil
}

// SameHost implements [System].
func (h *Host) SameHost(p Process) bool {
	uts, err := os.Readlink("/proc/" + strconv.Itoa(p.PID) + "/ns/uts")
	return err != nil || h.uts == "" || uts == h.uts || hasEnded(p)
}
