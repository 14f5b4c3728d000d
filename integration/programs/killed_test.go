//go:build linux

package programs

import (
	"bytes"
	"latchfs/integration/harness"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// TestProgramsWhileTheServerIsKilled runs TestPrograms and the tests of OpenClaw while the servers of their mounts
// are killed repeatedly.
func TestProgramsWhileTheServerIsKilled(t *testing.T) {
	t.Parallel()
	if harness.RaceEnabled {
		t.Skip("it takes minutes, and TestServerKilled kills a server that the race detector watches: make test does it")
	}
	harness.NeedFUSE(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-test.run", "^(TestPrograms|TestOpenClaw.*)$", "-test.timeout", "10m", "-test.v")
	cmd.Env = append(os.Environ(), harness.KillServersVariable+"=yes")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passed := bytes.Count(out, []byte("--- PASS: TestPrograms/")); passed < 10 {
		t.Errorf("only %d programs were tested", passed)
	}
	kills := 0
	for _, match := range regexp.MustCompile(`servers killed: (\d+)`).FindAllSubmatch(out, -1) {
		n, _ := strconv.Atoi(string(match[1]))
		kills += n
	}
	t.Logf("servers were killed %d times", kills)
	if kills < 10 {
		t.Error("servers were hardly ever killed")
	}
}
