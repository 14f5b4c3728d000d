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
	session   int    // field 6
	flags     uint64 // field 9, PF_* of the kernel
	threads   int    // field 20
	startTime uint64 // field 22, clock ticks since boot
	exitCode  int    // field 52, as in waitpid(2); 0 if not shown to the reader
}

// ended says that no thread of the process runs any more. State Z alone does not:
// a process whose first thread has exited shows it while the others run on.
func (s procStat) ended() bool {
	return s.state == 'X' || s.state == 'x' || s.state == 'Z' && s.threads <= 1
}

// exiting is PF_EXITING (linux/sched.h): set on a thread before its files are closed.
const exiting = 0x4

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
		return procStat{}, fmt.Errorf("process stat %q: no command name", text)
	}
	fields := bytes.Fields(text[end+1:]) // fields[0] is field 3
	if len(fields) < 20 || len(fields[0]) != 1 {
		return procStat{}, fmt.Errorf("process stat %q: too few fields", text)
	}
	s := procStat{command: string(text[open+1 : end]), state: fields[0][0]}
	var err error
	if s.ppid, err = strconv.Atoi(string(fields[1])); err != nil {
		return procStat{}, fmt.Errorf("process stat: parent: %w", err)
	}
	if s.session, err = strconv.Atoi(string(fields[3])); err != nil {
		return procStat{}, fmt.Errorf("process stat: session: %w", err)
	}
	if s.flags, err = strconv.ParseUint(string(fields[6]), 10, 64); err != nil {
		return procStat{}, fmt.Errorf("process stat: flags: %w", err)
	}
	if s.threads, err = strconv.Atoi(string(fields[17])); err != nil {
		return procStat{}, fmt.Errorf("process stat: threads: %w", err)
	}
	if s.startTime, err = strconv.ParseUint(string(fields[19]), 10, 64); err != nil {
		return procStat{}, fmt.Errorf("process stat: start time: %w", err)
	}
	if len(fields) >= 50 {
		if s.exitCode, err = strconv.Atoi(string(fields[49])); err != nil {
			return procStat{}, fmt.Errorf("process stat: exit code: %w", err)
		}
	}
	return s, nil
}
