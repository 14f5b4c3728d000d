//go:build linux

package filesystem

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"latchfs/integration/harness"
)

// TestPosix runs go-fuse's list of properties against the mount.
func TestPosix(t *testing.T) {
	m := harness.MountOver(t, t.TempDir())
	for name, test := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			if name == "FcntlFlockLocksFile" {
				// This test expects a process's fcntl(2) locks to exclude the same process, and so fails
				// on every filesystem. go-fuse does not run it either. TestSameAsBeneath has fcntl locks
				// of several processes.
				t.Skip("fails on a plain directory too")
			}
			dir := filepath.Join(m.Dir, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test(t, dir)
		})
	}
}
