package main

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestHelperOptions: each option of mount(8) is a flag; commas within double quotes separate none.
func TestHelperOptions(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args  []string // after DIR DIR
		flags []string
	}{
		{nil, nil},
		{[]string{"-o", "rw,nofail,x-systemd.automount"}, nil},
		{[]string{"-o", "stale_after=1h,noexec,no-heartbeat"}, []string{"--stale-after=1h", "--noexec", "--no-heartbeat"}},
		{[]string{"-o", `rw,lock_pattern="*.lock,keep",noexec`}, []string{"--lock-pattern=*.lock,keep", "--noexec"}},
		{[]string{"-o", `lock_pattern="*.lock,opaque,close",lock_pattern=*.pid,lock-pattern="!yarn.lock"`},
			[]string{"--lock-pattern=*.lock,opaque,close", "--lock-pattern=*.pid", "--lock-pattern=!yarn.lock"}},
		{[]string{"-o", "lock_pattern=*.lock", "-n", "-o", `"lock_pattern=a,keep"`}, []string{"--lock-pattern=*.lock", "--lock-pattern=a,keep"}},
		{[]string{"-s", "-o", "colour=red,noexec"}, []string{"--noexec"}},
	} {
		got, err := helperArgs(append([]string{dir, dir}, c.args...))
		if want := slices.Concat([]string{"mount", "--daemon"}, c.flags, []string{"--", dir}); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v, want %q", c.args, got, err, want)
		}
	}
	for options, says := range map[string]string{
		"lock_pattern=*.lock,keep":         "unknown option keep; see latchfs mount --help for the options, and put a value with commas in double quotes",
		`lock_pattern="*.lock,keep,noexec`: "a double quote is not closed",
		"lock_pattern":                     "option lock_pattern needs a value",
		"daemon":                           "unknown option daemon",
	} {
		_, err := helperArgs([]string{dir, dir, "-o", options})
		if !errors.As(err, &usageError{}) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", options, err, says)
		}
	}
}
