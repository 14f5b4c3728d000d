//go:build linux

package cli

import (
	"fmt"
	"latchfs/integration/harness"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestOperators releases locks of other processes by force, and checks the log.
func TestOperators(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.PublicDir(t))
	if err := os.Chmod(m.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	s := m.StartScript(`mkdir sub; set -C; echo $$ > sub/x.lock; echo $$; while :; do sleep 1; done`)
	lock := m.Path("sub/x.lock")
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"release", lock}, 9, "its holder lives"},
		{[]string{"release", m.Path("none.lock")}, 1, "no lock of that name"},
		{[]string{"release", "/x.lock"}, 4, "not in a latchfs mount"},
		{[]string{"release"}, 2, "usage"},
	} {
		if code, said := harness.RunLatchfs(t, nil, c.args...); code != c.code || !strings.Contains(said, c.says) {
			t.Errorf("%v: exit code %d: %s", c.args, code, said)
		}
	}
	out, err := exec.Command("setpriv", "--reuid=1002", "--regid=1002", "--clear-groups", harness.Latchfs, "release", "--force", lock).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "only root") {
		t.Errorf("%v: %s", err, out)
	}
	if code, said := harness.RunLatchfs(t, nil, "release", "--force", lock); code != 0 || harness.Exists(lock) {
		t.Errorf("exit code %d: %s", code, said)
	}
	if logged := m.Logged("an operator released a lock"); len(logged) != 1 || !strings.HasPrefix(fmt.Sprint(logged[0]["holder"]), strconv.Itoa(s.PID)+"(") {
		t.Errorf("logged %v", logged)
	}
	out, err = exec.Command(harness.Latchfs, "reclaimed", m.Dir).Output()
	if said := string(out); err != nil || !strings.Contains(said, "sub/x.lock") || !strings.Contains(said, "released") {
		t.Errorf("%v: %s", err, said)
	}
}
