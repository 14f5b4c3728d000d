//go:build linux

package locks

import (
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"latchfs/integration/harness"
)

// TestBreakersRace lets two contenders, which both have judged the same lock stale, remove and take it as fast as
// they can. In the mount only one of them ever has it. On a plain directory, the control run, both often believe
// that they do.
func TestBreakersRace(t *testing.T) {
	rounds := 1000
	if testing.Short() || harness.RaceEnabled {
		rounds = 100
	}
	m := harness.MountOver(t, t.TempDir())
	if both := race(t, m.Dir, rounds); both != 0 {
		t.Errorf("in the mount both held the lock in %d of %d rounds", both, rounds)
	}
	both := race(t, t.TempDir(), rounds)
	t.Logf("both held the lock in 0 of %d rounds in the mount, in %d on a plain directory", rounds, both)
	if both == 0 {
		t.Error("in the control run the two never met")
	}
}

// race returns the number of rounds in which both contenders took the lock.
func race(t *testing.T, dir string, rounds int) (both int) {
	t.Helper()
	seed := time.Now().UnixNano()
	random := rand.New(rand.NewSource(seed))
	t.Logf("seed %d", seed)
	lock := filepath.Join(dir, "x.lock")
	endless, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer endless.Close()
	defer hold.Close()
	contenders := []*harness.Process{harness.StartProcess(t), harness.StartProcess(t)}
	for round := range rounds {
		victim := exec.Command("sh", "-c", `set -C; echo $$ > "$0"; echo; read x`, lock)
		victim.Stdin = endless
		said, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := said.Read(make([]byte, 1)); err != nil {
			t.Fatalf("round %d: the lock was not taken: %v", round, err)
		}
		for _, c := range contenders {
			c.Send("break", lock, fmt.Sprintf("%d:%d", victim.Process.Pid, random.Intn(100)))
		}
		_ = victim.Process.Kill()
		_ = victim.Wait()
		held := 0
		for _, c := range contenders {
			switch answer := c.Answer(); answer {
			case "ok":
				held++
			case "EEXIST":
			default:
				t.Fatalf("round %d: %s", round, answer)
			}
		}
		if held == 0 {
			t.Fatalf("round %d: no contender took it", round)
		}
		if held == 2 {
			both++
		}
		for _, c := range contenders {
			c.Do("remove", lock) // one of them has it
		}
	}
	return both
}
