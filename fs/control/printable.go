package control

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Programs choose the names of files and of their commands. Such text passes one of these functions before it is shown,
// so that it cannot move a terminal's cursor, reorder text, or add a line to a table.

// Printable returns a short text, such as a name, quoted as in Go if it has unprintable characters.
func Printable(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// PrintableMessage returns a message of one or more lines with unprintable characters escaped as in Go.
func PrintableMessage(text string) string {
	return escape(text, func(r rune) string {
		quoted := strconv.QuoteRune(r)
		return quoted[1 : len(quoted)-1]
	})
}

// PrintableJSON returns equivalent JSON with unprintable characters escaped.
func PrintableJSON(text []byte) []byte {
	if bytes.IndexFunc(text, unprintable) < 0 {
		return text
	}
	return []byte(escape(string(text), func(r rune) string {
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			return fmt.Sprintf(`\u%04x\u%04x`, high, low)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}))
}

// unprintable reports whether a rune is to be escaped. Newlines are not.
func unprintable(r rune) bool { return r != '\n' && !strconv.IsPrint(r) }

// escape replaces the unprintable runes of a text, and bytes that are not UTF-8.
func escape(text string, by func(rune) string) string {
	var escaped strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&escaped, `\x%02x`, text[i])
		case unprintable(r):
			escaped.WriteString(by(r))
		default:
			escaped.WriteRune(r)
		}
	}
	return escaped.String()
}
