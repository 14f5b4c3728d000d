package bootid

import (
	"strings"
	"testing"
)

func TestUnknownIsNoMismatch(t *testing.T) {
	for _, c := range []struct {
		boot, other string
		differs     bool
	}{{"a", "a", false}, {"a", "b", true}, {"", "b", false}, {"a", "", false}, {"", "", false}} {
		if (Boot{ID: c.boot}).Differs(c.other) != c.differs || (Boot{MachineID: c.boot}).OnOtherMachine(c.other) != c.differs {
			t.Errorf("%+v", c)
		}
	}
}

func TestParseUUID(t *testing.T) {
	const id = "d09158e4-8a57-45d5-ad99-432e0d98241d"
	for text, want := range map[string]string{
		id: id, id + "\n": id, "D09158E4-8A57-45D5-AD99-432E0D98241D": id,
		"": "", "\n": "", "d09158e4-8a57-45d5-ad99": "", "d09158e48a5745d5ad99432e0d98241d": "",
		"g09158e4-8a57-45d5-ad99-432e0d98241d": "", "00000000-0000-0000-0000-000000000000": "", id + "0": "",
	} {
		if got := parseUUID(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestParseStat(t *testing.T) {
	fields := strings.Fields(strings.Repeat("1 ", 50)) // from field 3 on
	for number, text := range map[int]string{3: "S", 4: "7", 20: "3", 22: "4711", 52: "9"} {
		fields[number-3] = text
	}
	after := " " + strings.Join(fields, " ")
	for _, command := range []string{"sh", "a b", "a) S 1 (b", "((", ")", "\n"} {
		s, err := parseStat([]byte("42 (" + command + ")" + after + "\n"))
		if err != nil || s.command != command || s.state != 'S' || s.ppid != 7 || s.threads != 3 || s.startTime != 4711 || s.exitCode != 9 {
			t.Errorf("%q: %+v %v", command, s, err)
		}
	}
	for _, text := range []string{"", "42", "42 (sh", "42 sh) S 1", "42 (sh) S 1 2 3", "42 (sh) S x" + after[4:]} {
		if s, err := parseStat([]byte(text)); err == nil {
			t.Errorf("%q: %+v", text, s)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("1 (a) S 1"))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = parseStat(text) })
}
