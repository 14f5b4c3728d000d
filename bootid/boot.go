package bootid

import (
	"encoding/hex"
	"strings"
	"time"
)

// Boot identifies one boot of one machine. A zero field is unknown.
type Boot struct {
	// ID is the kernel's id of this boot, a lower-case UUID.
	ID string
	// MachineID is the id of the installation, 32 lower-case hexadecimal digits
	// on Linux (machine-id(5)).
	MachineID string
	// Time is the time at which the kernel booted, by the current setting of the wall clock.
	Time time.Time
}

// Differs reports whether the boot id other provably names another boot than b: both ids are
// known and unequal.
func (b Boot) Differs(other string) bool {
	return b.ID != "" && other != "" && b.ID != other
}

// OnOtherMachine reports whether other is provably the id of another machine: both ids are known and unequal.
func (b Boot) OnOtherMachine(other string) bool {
	return b.MachineID != "" && other != "" && b.MachineID != other
}

// ReadBoot reads the identity of the running boot. A field that the platform or a
// container hides stays zero; ReadBoot never fails.
func ReadBoot() Boot { return readBoot() }

// parseUUID returns s in lower case if it has the form 8-4-4-4-12, and "" otherwise. An empty, masked or
// overwritten file therefore yields an unknown id, never a wrong one.
func parseUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return ""
	}
	if parseHexID(strings.ReplaceAll(s, "-", "")) == "" {
		return ""
	}
	return s
}

// parseHexID returns s in lower case if it has 32 hexadecimal digits that are not all zero, and "" otherwise.
func parseHexID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if b, err := hex.DecodeString(s); err != nil || len(b) != 16 || strings.Trim(s, "0") == "" {
		return ""
	}
	return s
}
