package bootid

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// Relatives implements [System]. It leaves out the children of all threads but the
// first.
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

// GroupRuns implements [System]. A process that ends during the scan may have started another one that the
// scan missed, so GroupRuns then scans again.
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

// groupRuns scans all processes once. The result missed is true if a process ended before the scan read it.
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
		// The kernel gives no new process the id of an existing group or session.
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
