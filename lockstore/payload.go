package lockstore

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"
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
	// Host is the machine named with it, empty if none is.
	Host string
	// BootID is the boot named with it, empty if none is.
	BootID string
	// StartTime is the start time named with it, in clock ticks, 0 if none is.
	StartTime uint64
	// Weak: its form is one that other text has as well, such as host-pid. It names
	// somebody only if that process is found to be there.
	Weak bool
	// BadCreatedAt: an object says in createdAt when it was made, and it is no time.
	BadCreatedAt bool
}

// ParsePayload reads the bytes of a lock file or the text of a symbolic link, of which
// the first maxPayload+1 bytes suffice. A pid of 0, negative, or larger than any the kernel
// gives names nobody: in an object it is still the lock of somebody, a bare number is data.
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
	if named, ok := parseHostPID(string(trimmed)); ok {
		return named
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

// parseObject reads the keys OpenClaw writes: pid, starttime, bootId and createdAt, and
// hostname. Of a key given twice the last counts, as for the programs that read it. One
// that says when it was made, in scalars alone, is a lock of nobody without a pid.
func parseObject(text []byte) (Payload, bool) {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(text, &object); err != nil {
		return Payload{}, false
	}
	pid, numeric := 0, false
	if text := object["pid"]; len(text) > 0 && text[0] != '"' {
		var number json.Number
		numeric = json.Unmarshal(text, &number) == nil && number != ""
		pid, _ = parsePID(number.String())
	}
	createdAt, dated := object["createdAt"]
	if !numeric && !(dated && allScalar(object)) {
		return Payload{}, false
	}
	p := Payload{Class: Naming, PID: pid}
	// What does not parse stays unknown.
	_ = json.Unmarshal(object["bootId"], &p.BootID)
	p.BootID = strings.ToLower(strings.TrimSpace(p.BootID))
	_ = json.Unmarshal(object["starttime"], &p.StartTime)
	_ = json.Unmarshal(object["hostname"], &p.Host)
	var created time.Time
	p.BadCreatedAt = dated && json.Unmarshal(createdAt, &created) != nil
	return p, true
}

func allScalar(object map[string]json.RawMessage) bool {
	for _, value := range object {
		if len(value) == 0 || value[0] == '{' || value[0] == '[' {
			return false
		}
	}
	return true
}

// hostPID are the forms that name a process of a machine: user@host.pid:boot of Emacs,
// host:pid of Mercurial (whose host ends in / and its pid namespace) and Firefox (whose pid
// has a + before it), host-pid of Chromium, file|host|pid|number of flufl.lock.
var hostPID = []*regexp.Regexp{
	regexp.MustCompile(`^[^\s@]+@([^\s@:]+)\.([0-9]+)(?::[0-9]+)?$`),
	regexp.MustCompile(`^([A-Za-z0-9._%-]+)(?:/[0-9a-f]+)?:\+?([0-9]+)$`),
	regexp.MustCompile(`^([A-Za-z0-9._%-]+)-([0-9]+)$`),
	regexp.MustCompile(`^[^\s|]*\|([^\s|]+)\|([0-9]+)\|[0-9]+$`),
}

func parseHostPID(text string) (Payload, bool) {
	for _, form := range hostPID {
		if match := form.FindStringSubmatch(text); match != nil {
			pid, ok := parsePID(match[2])
			return Payload{Class: Naming, Host: match[1], PID: pid, Weak: true}, ok
		}
	}
	return Payload{}, false
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
