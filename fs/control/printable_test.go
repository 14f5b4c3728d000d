package control

import (
	"encoding/json"
	"testing"
)

// TestPrintable: characters that move the cursor or reorder text are escaped, and JSON keeps its meaning.
func TestPrintable(t *testing.T) {
	const odd = "a\x1b[2J\u009b31m\u202eb\U000e0041\x7f\xff \"ü\""
	if got, want := PrintableMessage(odd+"\nline"), `a\x1b[2J\u009b31m\u202eb\U000e0041\x7f\xff "ü"`+"\nline"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
	text, err := json.Marshal(odd)
	if err != nil {
		t.Fatal(err)
	}
	printable := PrintableJSON(text)
	if want := `"a\u001b[2J\u009b31m\u202eb\udb40\udc41\u007f\ufffd \"ü\""`; string(printable) != want {
		t.Errorf("%s, not %s", printable, want)
	}
	var before, after string
	if json.Unmarshal(text, &before) != nil || json.Unmarshal(printable, &after) != nil || before != after {
		t.Errorf("%q, not %q", after, before)
	}
}
