package bootid

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// Relatives implements [System]. A process with several threads may have children of others than the first:
// these are left out.
func (h *Host) Relatives(p Process) (parent int, children []int) {
	stat, err := readStat(p.PID)
	if h.blind || err != nil || stat.startTime != p.StartTime {
		return 0, nil
	}
	pid := strconv.Itoa(p.PID)
	var buffer [procSize]byte
	text, err := readOnce("/proc/"+pid+"/task/"+pid+"/children", buffer[:])
	if err != nil {
		return stat.ppid, nil
	}
	for _, number := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(number); err == nil {
			children = append(children, child)
		}
	}
	return stat.ppid, children
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
