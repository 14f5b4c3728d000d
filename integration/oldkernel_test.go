//go:build linux

package integration

import "testing"

// TestOldKernel: on Debian 12's kernel (6.1), which cannot send requests again, a server that dies is
// followed by a new mount, and that is said. integration/vm/oldkernel is what happens in the virtual
// machine.
func TestOldKernel(t *testing.T) {
	if raceEnabled {
		t.Skip("emulated, the race detector is too slow: make test does it")
	}
	m := newMachine(t, "oldkernel", "", map[string]string{"latchfs": buildStatic(t)})
	m.boot("")
	m.results(m.until("RESULT done"), 12)
}
