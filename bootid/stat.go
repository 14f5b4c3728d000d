package bootid

import (
	"bytes"
	"fmt"
	"strconv"
)

// procStat is what latchfs reads of proc_pid_stat(5).
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
	exitCode  int    // field 52, as in waitpid(2); 0 if the reader may not know
}

// ended says that no thread of the process runs any more. State Z alone does not:
// a process whose first thread has exited shows it while the others run on.
func (s procStat) ended() bool {
	return s.state == 'X' || s.state == 'x' || s.state == 'Z' && s.threads <= 1
}

// Flags of a thread (PF_*, linux/sched.h).
const (
	exiting      = 0x4 // set before its files are closed
	kernelThread = 0x00200000
)

// ownSession is the session, unless it has a controlling terminal.
func (s procStat) ownSession() int {
	if s.terminal != 0 {
		return 0
	}
	return s.session
}

// adopted says that the process pid of that stat cannot have been made by its parent: it is
// in a session that is neither the parent's nor its own, so it is an orphan whose
// parent is a subreaper, which takes in the orphans beneath it (PR_SET_CHILD_SUBREAPER(2const)).
func (s procStat) adopted(pid int, parent procStat) bool {
	return s.session != parent.session && s.session != pid
}

// parseStat parses the text of /proc/PID/stat. Field 2 is chosen by the program and
// may hold spaces, parentheses and newlines, so fields count from the last ')'.
func parseStat(text []byte) (procStat, error) {
	open, end := bytes.IndexByte(text, '('), bytes.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("process stat %q: no command name", string(text))
	}
	s := procStat{command: string(text[open+1 : end])}
	number := 3 // of the field
	for rest := bytes.TrimSpace(text[end+1:]); len(rest) > 0; number++ {
		var field []byte // one that stayed on would be on the heap, and this is parsed whenever a lock is released
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
