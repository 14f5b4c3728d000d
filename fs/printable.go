package fs

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Names and commands are chosen by programs. What is shown of them passes one of the functions here, so that nothing
// moves a terminal's cursor, changes the order of its text, or adds a line to a table.

// Printable returns a name or another short text, quoted as in Go if it is not printable as it is.
func Printable(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// PrintableMessage returns a message, which may have several lines, with escapes as in Go for what is not printable.
func PrintableMessage(text string) string {
	return escape(text, func(r rune) string {
		quoted := strconv.QuoteRune(r)
		return quoted[1 : len(quoted)-1]
	})
}

// PrintableJSON returns the same JSON with escapes for what is not printable.
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

// unprintable reports whether a rune is to be escaped. Ends of lines stay.
func unprintable(r rune) bool { return r != '\n' && !strconv.IsPrint(r) }

// escape replaces the runes of text that are unprintable, and bytes that are none.
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
