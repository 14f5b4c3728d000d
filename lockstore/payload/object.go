package payload

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object has the scalar values of a JSON object in order, including those of nested objects and arrays. If a key is
// given twice the last one counts, as for the programs that read the object.
type object struct {
	fields []field
	nested bool // it has a value that is no scalar
}

// field is a scalar value of an object.
type field struct {
	key   string // the last one on the way, letters and digits alone, in lower case
	words string // the last key, its words separated by spaces
	value string // a number as it is written, or a text
	top   bool   // it is directly in the object
}

// parseObject returns nil if text is no JSON object.
func parseObject(text []byte) *object {
	if text[0] != '{' {
		return nil
	}
	var top map[string]json.RawMessage
	if json.Unmarshal(text, &top) != nil {
		return nil
	}
	o := &object{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	_, _ = decoder.Token() // {
	o.read(decoder, "", true, true)
	return o
}

// read reads the members of an object, or the elements of an array with that key, to its end. The text is valid
// JSON.
func (o *object) read(decoder *json.Decoder, key string, isObject, top bool) {
	for decoder.More() {
		if isObject {
			token, _ := decoder.Token()
			key, _ = token.(string)
		}
		token, err := decoder.Token()
		if err != nil {
			return
		}
		switch value := token.(type) {
		case json.Delim:
			o.nested = true
			o.read(decoder, key, value == '{', false)
		case json.Number:
			o.add(key, value.String(), top)
		case string:
			o.add(key, value, top)
		default: // true, false, null
			o.add(key, "", top)
		}
	}
	_, _ = decoder.Token() // } or ]
}

func (o *object) add(key, value string, top bool) {
	words := splitWords(key)
	f := field{key: strings.ReplaceAll(words, " ", ""), words: words, value: strings.TrimSpace(value), top: top}
	if top {
		o.fields = slices.DeleteFunc(o.fields, func(before field) bool { return before.top && before.words == words })
	}
	o.fields = append(o.fields, f)
}

// splitWords returns the words of a key in lower case: ownerPid, owner_pid and owner-pid are "owner
// pid".
func splitWords(key string) string {
	var out strings.Builder
	lower := false // the last character was a small letter or a digit
	for _, c := range key {
		switch {
		case c >= 'A' && c <= 'Z':
			if lower {
				out.WriteByte(' ')
			}
			out.WriteRune(c - 'A' + 'a')
			lower = false
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c > 0x7f:
			out.WriteRune(c)
			lower = true
		default:
			out.WriteByte(' ')
			lower = false
		}
	}
	return strings.Join(strings.Fields(out.String()), " ")
}

// namesPID reports whether the key ends in pid, in any spelling.
func (f field) namesPID() bool {
	return strings.HasSuffix(f.key, "pid") || strings.HasSuffix(f.key, "processid") ||
		strings.HasSuffix(f.key, "procid")
}

// pids returns the values of the keys that end in pid: first that of the key pid, then those directly in the
// object.
func (o *object) pids() (pids []int) {
	rank := func(f field) int {
		switch {
		case f.top && f.key == "pid":
			return 0
		case f.top:
			return 1
		}
		return 2
	}
	fields := slices.Clone(o.fields)
	slices.SortStableFunc(fields, func(a, b field) int { return rank(a) - rank(b) })
	for _, f := range fields {
		if pid := ParsePID(f.value); f.namesPID() && pid != 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pid returns the pid in an object whose writer is not known: the value of a key directly in it whose last word is
// pid. Given reports whether there is such a key, whatever its value.
func (o *object) pid() (pid int, given bool) {
	for _, f := range o.fields {
		if f.top && (f.words == "pid" || strings.HasSuffix(f.words, " pid") ||
			strings.HasSuffix(f.words, "process id") || f.key == "processid") {
			given = true
			if pid = ParsePID(f.value); pid != 0 {
				return pid, true
			}
		}
	}
	return 0, given
}

// The keys, without spaces, for when, where and for what a lock was taken.
var (
	whenKeys = []string{
		"createdat", "created", "acquiredat", "acquired", "lockedat", "timestamp", "time", "date", "since",
		"startedat", "started", "starttime", "updatedat", "updated", "refreshedat", "heartbeat", "heartbeatat",
		"lastheartbeat", "expiresat", "expires", "expiry",
	}
	otherLockKeys = []string{
		"ttl", "ttlms", "ttlseconds", "lease", "leasems", "host", "hostname", "machine", "machineid", "bootid",
		"container", "containerid", "cwd", "session", "sessionid", "sessionkey", "agent", "agentid", "claim",
		"claimid", "lockid", "owner", "ownerid", "holder", "holderid", "user", "username", "uid", "token",
		"nonce", "reason", "purpose", "operation", "command", "cmd", "task", "taskid", "run", "runid",
		"workspace", "resource", "pid",
	}
)

// onlyLockWords reports whether the object has only scalar values, and only keys for when, where and for what a
// lock was taken. One of them has to be for when, unless there is a key for a pid, which may be nobody's.
func (o *object) onlyLockWords(withPID bool) bool {
	when := withPID
	for _, f := range o.fields {
		if slices.Contains(whenKeys, f.key) {
			when = true
		} else if !slices.Contains(otherLockKeys, f.key) && !(withPID && f.namesPID()) {
			return false
		}
	}
	return when && !o.nested
}

// facts returns what the object says in addition to a pid.
func (o *object) facts() (facts Facts) {
	for _, f := range o.fields {
		switch f.key {
		case "host", "hostname":
			facts.Host = f.value
		case "bootid":
			facts.BootID = strings.ToLower(f.value)
		}
		if !f.top {
			continue // it may be the time at which something else was made
		}
		switch f.key {
		case "starttime", "processstarttime", "pidstarttime", "startticks":
			facts.Start = parseStart(f.value)
		case "createdat":
			facts.Created = parseTime(f.value)
			facts.BadCreatedAt = facts.Created.IsZero()
		case "created", "acquiredat", "lockedat":
			if at := parseTime(f.value); !at.IsZero() && facts.Created.IsZero() {
				facts.Created = at
			}
		}
	}
	return facts
}

// parseStart reads a start time. It returns a whole number as it is, and a time as nanoseconds since 1970; 0 for
// anything else.
func parseStart(value string) uint64 {
	if n, err := strconv.ParseUint(value, 10, 64); err == nil {
		return n
	}
	if at := parseTime(value); !at.IsZero() {
		return uint64(at.UnixNano())
	}
	return 0
}

// parseTime reads a time of RFC 3339, or a number of seconds, milliseconds, microseconds or nanoseconds since 1970.
// It returns the zero time for a time before 2001 or anything else.
func parseTime(value string) time.Time {
	if at, err := time.Parse(time.RFC3339, value); err == nil && at.Year() > 2000 {
		return at
	}
	whole, _, _ := strings.Cut(value, ".")
	if n, err := strconv.ParseUint(whole, 10, 64); err == nil {
		return unixTime(n)
	}
	return time.Time{}
}
