package lockstore

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of what can name a holder, in bytes. What is longer is data.
const (
	maxPayload     = 4096
	maxBareNumber  = 256
	maxPID         = 1 << 22 // PID_MAX_LIMIT, linux/threads.h
	maxPayloadRead = maxPayload + 1
)

// Class is what the bytes of a lock file are taken for.
type Class int

const (
	// Empty: no bytes, white space or a lone 0.
	Empty Class = iota
	// Naming: it names a process.
	Naming
	// Data: anything else. It is never removed.
	Data
)

func (c Class) String() string {
	return [...]string{"empty", "naming", "data"}[c]
}

// Payload is what the bytes of a lock file say. They are a program's word, not
// proof of anything.
type Payload struct {
	Class Class
	// PID is the number named, in the pid namespace of the writer; 0 if a pid is given
	// that no process can have.
	PID int
	// BootID is the boot named with it, empty if none is.
	BootID string
	// StartTime is the start time named with it, in clock ticks, 0 if none is.
	StartTime uint64
}

// ParsePayload reads the bytes of a lock file, of which the first maxPayload+1
// suffice. A pid of 0, negative, or larger than any the kernel gives names nobody: in an object
// it is still the lock of somebody, a bare number is data.
func ParsePayload(text []byte) Payload {
	data := Payload{Class: Data}
	if len(text) > maxPayload || !isText(text) {
		return data
	}
	trimmed := bytes.TrimSpace(text)
	if len(trimmed) == 0 || string(trimmed) == "0" {
		return Payload{Class: Empty}
	}
	if trimmed[0] == '{' {
		if named, ok := parseObject(trimmed); ok {
			return named
		}
		return data
	}
	if len(text) > maxBareNumber {
		return data
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if pid, ok := parsePID(strings.TrimSpace(string(line))); ok {
		return Payload{Class: Naming, PID: pid}
	}
	return data
}

// isText says that b is UTF-8 without control characters other than white space.
func isText(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.Valid(b)
}

// parseObject reads the keys OpenClaw writes: pid, starttime and bootId. Of a key
// given twice the last counts, as for the programs that read it.
func parseObject(text []byte) (Payload, bool) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return Payload{}, false
	}
	var number json.Number
	if text := object["pid"]; len(text) == 0 || text[0] == '"' || json.Unmarshal(text, &number) != nil || number == "" {
		return Payload{}, false
	}
	pid, _ := parsePID(number.String())
	p := Payload{Class: Naming, PID: pid}
	// What does not parse stays unknown.
	_ = json.Unmarshal(object["bootId"], &p.BootID)
	p.BootID = strings.ToLower(strings.TrimSpace(p.BootID))
	_ = json.Unmarshal(object["starttime"], &p.StartTime)
	return p, true
}

func parsePID(digits string) (int, bool) {
	if digits == "" || digits[0] < '1' || digits[0] > '9' {
		return 0, false
	}
	pid, err := strconv.Atoi(digits)
	if err != nil || pid > maxPID {
		return 0, false
	}
	return pid, true
}
