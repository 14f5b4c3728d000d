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
	// Time is when the kernel booted, by the wall clock as it is set now.
	Time time.Time
}

// Differs says that b is provably another boot than other: both boot ids are
// known and unequal.
func (b Boot) Differs(other string) bool {
	return b.ID != "" && other != "" && b.ID != other
}

// OnOtherMachine says that other is provably the id of another machine.
func (b Boot) OnOtherMachine(other string) bool {
	return b.MachineID != "" && other != "" && b.MachineID != other
}

// ReadBoot reads the identity of the running boot. What the platform or a
// container hides is unknown; there is no error.
func ReadBoot() Boot { return readBoot() }

// parseUUID accepts the 8-4-4-4-12 form only, so that an empty, masked or
// overwritten file is unknown rather than an id.
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

// parseHexID accepts 32 hexadecimal digits that are not all zero.
func parseHexID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if b, err := hex.DecodeString(s); err != nil || len(b) != 16 || strings.Trim(s, "0") == "" {
		return ""
	}
	return s
}
