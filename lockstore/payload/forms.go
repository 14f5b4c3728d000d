package payload

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
)

// hostForms are the lines that name a process of a host. Text that has nothing to do with processes often has a
// loose form too.
var hostForms = []struct {
	form  *regexp.Regexp // host and pid
	loose bool
}{
	{regexp.MustCompile(`^[^\s@]+@([^\s@:]+)\.([0-9]+)(?::[0-9]+)?$`), false},      // user@host.pid:boot (Emacs)
	{regexp.MustCompile(`^([A-Za-z0-9._%-]+)(?:/[0-9a-f]+)?:\+?([0-9]+)$`), false}, // host:pid, host/ns:pid (hg), address:+pid (Firefox)
	{regexp.MustCompile(`^([A-Za-z0-9._%-]+)-([0-9]+)$`), true},                    // host-pid (Chromium)
	{regexp.MustCompile(`^[^\s|]*\|([^\s|]+)\|([0-9]+)\|[0-9]+$`), false},          // file|host|pid|number (flufl.lock)
}

// parseHostForm reads one line that has one of hostForms.
func parseHostForm(text string) (pid int, host string, loose, ok bool) {
	for _, f := range hostForms {
		if match := f.form.FindStringSubmatch(text); match != nil {
			pid = ParsePID(match[2])
			return pid, match[1], f.loose, pid != 0
		}
	}
	return 0, "", false, false
}

// parsePairs reads the keys and values in a text that is no JSON object: pid=123, "owner_pid": 123.
func parsePairs(text []byte) *object {
	o := &object{}
	for i, c := range text {
		if c != '=' && c != ':' {
			continue
		}
		before := bytes.TrimRight(text[:i], " \t\"'")
		key := lastWord(before)
		if strings.EqualFold(key, "id") { // process id
			key = lastWord(bytes.TrimRight(before[:len(before)-len(key)], " ")) + key
		}
		after := bytes.TrimLeft(text[i+1:], " \t\"'")
		end := bytes.IndexAny(after, " \t\r\n\"',;")
		if end < 0 {
			end = len(after)
		}
		if key != "" && end > 0 {
			o.add(key, string(after[:end]), true)
		}
	}
	return o
}

// lastWord returns the longest end of text that can be a key.
func lastWord(text []byte) string {
	i := len(text)
	for i > 0 && (isLetter(text[i-1]) || isDigit(text[i-1]) || text[i-1] == '_' || text[i-1] == '-') {
		i--
	}
	return string(text[i:])
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

// pidWords returns the pid in one line of a few words, "pid host", "pid time" or "host pid time"; 0 if there is
// none.
func pidWords(words []string) (pid int) {
	if len(words) < 2 || len(words) > 4 {
		return 0
	}
	pid = ParsePID(words[0])
	if pid == 0 && len(words) > 2 && strings.Trim(words[2], "0123456789") == "" {
		pid = ParsePID(words[1])
	}
	return pid
}

const (
	// minDigits is the least number of digits with which a number points to a process by itself.
	minDigits   = 3
	leastNumber = 100
	// maxNumbers is the greatest count of such numbers in a text of which any is considered: a table of numbers
	// contains nearly every pid.
	maxNumbers = 5
)

// notNumbers matches text that has digits and is no whole number: ids, times, versions.
var notNumbers = regexp.MustCompile(`(?i)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}` +
	`|[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:?[0-9]{2}(?::?[0-9]{2}(?:[.,][0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?` +
	`|\bv?[0-9]+(?:\.[0-9]+)+`)

// word is a run of letters and digits.
var word = regexp.MustCompile(`[0-9A-Za-z]+`)

// wholeNumbers returns the numbers in a text that stand alone, in decimal or as 0x and hexadecimal digits, at most
// one more than count. A number that cannot be a pid is returned as 0, since it is a number too.
func wholeNumbers(text []byte) (numbers []int) {
	for _, part := range bytes.Fields(text) {
		if !hasNumber(part) {
			continue
		}
		for _, w := range word.FindAll(notNumbers.ReplaceAll(part, []byte(" ")), -1) {
			if n, ok := parseWhole(string(w)); ok {
				numbers = append(numbers, n)
			}
			if len(numbers) > maxNumbers {
				return numbers
			}
		}
	}
	return numbers
}

// hasNumber reports whether part may have a number that stands alone.
func hasNumber(part []byte) bool {
	digits := 0
	for _, c := range part {
		if isDigit(c) {
			digits++
		} else if digits = 0; c|0x20 == 'x' {
			return true
		}
		if digits == minDigits {
			return true
		}
	}
	return false
}

// Numbers returns the numbers in a text that may be pids of other processes than own. If the text has the number
// own, it is about that process, and Numbers returns none. It is fast.
func Numbers(text []byte, own int) (numbers []int) {
	if len(text) > Limit {
		return nil
	}
	for i := 0; i < len(text); i++ {
		from := i
		for i < len(text) && isDigit(text[i]) {
			i++
		}
		if i == from {
			continue
		}
		switch n := ParsePID(string(text[from:i])); {
		case n == own:
			return nil
		case n != 0 && len(numbers) < maxNumbers:
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// parseWhole reads a word that is a number. It returns 0 for a number that cannot be a pid.
func parseWhole(w string) (n int, ok bool) {
	hex, isHex := strings.CutPrefix(strings.ToLower(w), "0x")
	switch {
	case isHex:
		v, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || v < leastNumber {
			return 0, false
		}
		if v > maxPID {
			v = 0
		}
		return int(v), true
	case len(w) < minDigits || strings.Trim(w, "0123456789") != "":
		return 0, false
	}
	return ParsePID(w), true
}
