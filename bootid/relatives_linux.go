package bootid

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// maxChildren is how many children of a process are looked at.
const maxChildren = 64

// Children implements [System]. Of a process that has very many, the last ones are left out.
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
				if child, err := h.Process(pid); err == nil && len(children) < maxChildren {
					children = append(children, child)
				}
			}
		}
	}
	return children
}

// GroupRuns implements [System]. A process that ends while it looks may have started another behind its
// back, so then it looks once more.
func (h *Host) GroupRuns(p Process) bool {
	if _, err := readStat(1); h.blind || err != nil || p.Group <= 0 {
		return true // processes may be hidden
	}
	runs, missed := h.groupRuns(p)
	if missed && !runs {
		runs, _ = h.groupRuns(p)
	}
	return runs
}

// groupRuns looks at all processes once. It has missed something if one ended before it was read.
func (h *Host) groupRuns(p Process) (runs, missed bool) {
	group, session, hidden := false, false, false
	groupGone, sessionGone := false, p.Session == 0
	err := h.eachProcess(func(pid int) bool {
		stat, err := readStat(pid)
		if err != nil {
			missed = true
			hidden = !errors.Is(err, ErrNoProcess)
			return !hidden
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
	return hidden || err != nil || group && !groupGone || session && !sessionGone, missed
}

// SameHost implements [System].
func (h *Host) SameHost(p Process) bool {
	uts, err := os.Readlink("/proc/" + strconv.Itoa(p.PID) + "/ns/uts")
	return err == nil && uts == h.uts && !hasEnded(p)
}
