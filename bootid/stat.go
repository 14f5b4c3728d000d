package bootid

import (
	"bytes"
	"fmt"
	"strconv"
)

// procStat holds the fields of proc_pid_stat(5) that latchfs reads.
type procStat struct {
	command   string // field 2, without its parentheses
	state     byte   // field 3
	ppid      int    // field 4
	group     int    // field 5
	session   int    // field 6
	terminal  int    // field 7, 0 is none
	flags     uint64 // field 9, PF_* of the kernel
	threads   int    // field 20
	startTime uint64 // field 22, clock ticks since boot
	exitCode  int    // field 52, as in waitpid(2); 0 if the reader lacks the permission
}

// ended reports whether no thread of the process runs. State Z alone is no proof:
// a process whose first thread has exited is in state Z while its other threads run.
func (s procStat) ended() bool {
	return s.state == 'X' || s.state == 'x' || s.state == 'Z' && s.threads <= 1
}

// Flags of a thread (PF_*, linux/sched.h).
const (
	exiting      = 0x4 // the kernel sets it before it closes the files of the thread
	kernelThread = 0x00200000
)

// ownSession returns the session, or 0 if the session has a controlling terminal.
func (s procStat) ownSession() int {
	if s.terminal != 0 {
		return 0
	}
	return s.session
}

// adopted reports whether the process pid of s is provably not made by its parent: its session is neither
// the parent's nor one that the process leads. Such a process is an orphan, and its parent is a subreaper
// (PR_SET_CHILD_SUBREAPER(2const)).
func (s procStat) adopted(pid int, parent procStat) bool {
	return s.session != parent.session && s.session != pid
}

// parseStat parses the text of /proc/PID/stat. The program chooses field 2, which
// may hold spaces, parentheses and newlines, so parseStat counts fields from the last ')'.
func parseStat(text []byte) (procStat, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("process stat %q: no command name", string(text))
	}
	s := procStat{command: string(text[open+1 : end])}
	number := 3 // number of the field
	for rest := bytes.TrimSpace(text[end+1:]); len(rest) > 0; number++ {
		var field []byte // declared in the loop to stay off the heap: each release of a lock parses a stat
		field, rest, _ = bytes.Cut(rest, []byte(" "))
		var err error
		switch number {
		case 3:
			if len(field) != 1 {
				return procStat{}, fmt.Errorf("process stat: state %q", string(field))
			}
			s.state = field[0]
		case 4:
			s.ppid, err = strconv.Atoi(string(field))
		case 5:
			s.group, err = strconv.Atoi(string(field))
		case 6:
			s.session, err = strconv.Atoi(string(field))
		case 7:
			s.terminal, err = strconv.Atoi(string(field))
		case 9:
			s.flags, err = strconv.ParseUint(string(field), 10, 64)
		case 20:
			s.threads, err = strconv.Atoi(string(field))
		case 22:
			s.startTime, err = strconv.ParseUint(string(field), 10, 64)
		case 52:
			s.exitCode, err = strconv.Atoi(string(field))
		}
		if err != nil {
			return procStat{}, fmt.Errorf("process stat: field %d: %w", number, err)
		}
	}
	if number <= 22 {
		return procStat{}, fmt.Errorf("process stat %q: too few fields", string(text))
	}
	return s, nil
}
