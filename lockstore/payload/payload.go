// Package payload reads what the bytes of a lock file say. It consists of pure functions: it opens
// nothing and knows no process table.
//
// [Read] reads a text whose writer is known from the kernel. The text names a process if it has the number of one
// of the writer's family, which Read asks the caller about; that needs no list of formats. [Found] reads a file
// whose writer is not known, as it was there already: only the forms that lock files have count, and everything
// else is data. A [Claim] is what a text says of a process. It is a program's word, not proof.
package payload

import (
	"bytes"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Limit is the size in bytes of the longest text that can name a process. A longer one is data.
const Limit = 4096

// maxPID is PID_MAX_LIMIT of linux/threads.h.
const maxPID = 1 << 22

// Class is what kind of text a lock file has.
type Class int

const (
	// Empty: the text says nothing of a process. It is no bytes, white space, a lone 0, or an object that only says
	// when, where and for what a lock was taken.
	Empty Class = iota
	// Naming: the text names a process.
	Naming
	// Data: anything else.
	Data
)

func (c Class) String() string {
	return [...]string{"empty", "naming", "data"}[c]
}

// Claim is what a text says of a process.
type Claim struct {
	Class Class
	// PID is the number named, in the pid namespace of the writer; 0 if there is none.
	PID int
	// Weak reports that no form of the text makes the number a pid: there is only the number itself.
	Weak bool
	// Other reports that the text is data, and that a field or its form names a process that is not of the writer's
	// family.
	Other bool
	// Facts are what the text says in addition to the number.
	Facts
}

// Facts are what a text says of the process it names, and of the lock. A zero field means that it says nothing.
type Facts struct {
	// Host is the name of the machine.
	Host string
	// BootID is the boot, in lower case.
	BootID string
	// Start is the start time of the process: clock ticks since boot, or a time since 1970 in a unit that follows
	// from its size.
	Start uint64
	// Created is when the lock was taken.
	Created time.Time
	// BadCreatedAt reports that createdAt is given and is no time.
	BadCreatedAt bool
}

// Read reads a text of a known writer; its first Limit+1 bytes suffice. Name is the last component of the file's
// path, which may name the process too; it may be empty. Read calls about with each number that may be a pid, the
// likeliest first, until about reports that the claim is true of a process of the writer's family.
func Read(text []byte, name string, about func(Claim) bool) Claim {
	s := parse(text)
	for _, candidate := range s.candidates(name) {
		if about(candidate) {
			return candidate
		}
	}
	other := len(s.pids) > 0 || s.word >= leastNumber
	if s.empty() && !other {
		return Claim{Class: Empty, Facts: s.facts}
	}
	return Claim{Class: Data, Other: other, Facts: s.facts}
}

// Found reads a text whose writer is not known. It returns a claim of class Naming without a number for an object
// that has the form of a lock and names no process.
func Found(text []byte) Claim {
	s := parse(text)
	switch {
	case !s.text:
	case len(s.trimmed) == 0 || string(s.trimmed) == "0":
		return Claim{Class: Empty}
	case s.object != nil:
		pid, given := s.object.pid()
		if pid != 0 || s.object.onlyLockWords(given) {
			return Claim{Class: Naming, PID: pid, Facts: s.facts}
		}
	case s.line != 0 && bytes.Count(s.trimmed, []byte("\n")) <= 1:
		return Claim{Class: Naming, PID: s.line}
	case s.hostForm:
		return Claim{Class: Naming, PID: s.pids[0], Weak: s.loose, Facts: s.facts}
	}
	return Claim{Class: Data}
}

// statement is a text taken apart.
type statement struct {
	trimmed  []byte
	text     bool    // it is text, and not too long
	object   *object // nil if it is no JSON object
	pids     []int   // numbers that a field or the form says are pids, the likeliest first
	word     int     // the number among a few words that may be one, 0 if there is none
	line     int     // the number that is alone on the first line, 0 if there is none
	hostForm bool    // it is one line that names a process of a host
	loose    bool    // other text often has that form too
	facts    Facts
}

func parse(text []byte) statement {
	length := len(text)
	text = bytes.TrimRight(text, "\x00") // programs in C write the end of a string with it
	s := statement{trimmed: bytes.TrimSpace(text), text: length <= Limit && IsText(text)}
	if !s.text || len(s.trimmed) == 0 {
		return s
	}
	if s.object = parseObject(s.trimmed); s.object != nil {
		s.pids, s.facts = s.object.pids(), s.object.facts()
		return s
	}
	line, _, _ := bytes.Cut(s.trimmed, []byte("\n"))
	if s.line = ParsePID(strings.TrimSpace(string(line))); s.line != 0 {
		s.pids = append(s.pids, s.line)
	} else if pid, host, loose, ok := parseHostForm(string(s.trimmed)); ok {
		s.pids, s.facts.Host, s.hostForm, s.loose = append(s.pids, pid), host, true, loose
	}
	pairs := parsePairs(s.trimmed)
	s.pids = append(s.pids, pairs.pids()...)
	if !s.hostForm {
		s.facts = pairs.facts()
	}
	if len(line) == len(s.trimmed) {
		s.word = pidWords(strings.Fields(string(line)))
	}
	return s
}

// empty reports whether the text says nothing of a process and can only be that of a lock.
func (s *statement) empty() bool {
	if s.object != nil {
		_, given := s.object.pid()
		return s.object.onlyLockWords(given)
	}
	return s.text && (len(s.trimmed) == 0 || string(s.trimmed) == "0")
}

// candidates returns the claims that the text can mean, the likeliest first.
func (s *statement) candidates(name string) []Claim {
	var claims []Claim
	add := func(weak bool, pids []int) {
		for _, pid := range pids {
			if pid == 0 {
				continue
			}
			claims = append(claims, Claim{Class: Naming, PID: pid, Weak: weak, Facts: s.facts})
		}
	}
	add(false, append(s.pids, s.word))
	add(false, wholeNumbers([]byte(name)))
	if s.text {
		if numbers := wholeNumbers(s.trimmed); len(numbers) <= maxNumbers {
			add(true, numbers)
		}
	}
	return claims
}

// IsText reports whether b is UTF-8 without control characters other than white space.
func IsText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(b)
}

// ParsePID reads a pid as programs write it, in decimal without sign or leading zeros. It returns 0 if the digits
// are no number that the kernel gives to a process.
func ParsePID(digits string) int {
	if digits == "" || digits[0] < '1' || digits[0] > '9' {
		return 0
	}
	pid, err := strconv.Atoi(digits)
	if err != nil || pid > maxPID {
		return 0
	}
	return pid
}

// startTolerance is how exactly a program knows the start time of a process: some write it to the second.
const startTolerance = 2 * time.Second

// Contradict reports whether the facts are false for a process that was started at ticks since boot, which is the
// time started. It ignores Host and BootID.
func (f Facts) Contradict(ticks uint64, started time.Time) bool {
	earliest := started.Add(-startTolerance)
	if f.Start != 0 && f.Start != ticks && unixTime(f.Start).Before(earliest) {
		return true
	}
	return !f.Created.IsZero() && f.Created.Before(earliest)
}

// unixTime returns the time that is n seconds, milliseconds, microseconds or nanoseconds after 1970; the zero time
// if that is before 2001.
func unixTime(n uint64) time.Time {
	switch {
	case n < 1e9:
		return time.Time{}
	case n < 1e11:
		return time.Unix(int64(n), 0)
	case n < 1e14:
		return time.UnixMilli(int64(n))
	case n < 1e17:
		return time.UnixMicro(int64(n))
	}
	return time.Unix(0, int64(min(n, 1<<63-1)))
}
