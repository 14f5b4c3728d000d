//go:build linux

package locks

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// hammer takes and releases the lock HAMMER_LOCK until it is killed. While it holds the lock, it appends "begin
// PID", and after a moment "end PID", to the file HAMMER_WITNESS.
func hammer() {
	lock, witness := os.Getenv("HAMMER_LOCK"), os.Getenv("HAMMER_WITNESS")
	pid := strconv.Itoa(os.Getpid())
	file, err := os.OpenFile(witness, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		harness.FailHelper(err)
	}
	for {
		switch err := harness.Take(lock, pid+"\n"); err {
		case nil:
		case unix.EEXIST:
			time.Sleep(time.Duration(rand.IntN(int(2 * time.Millisecond))))
			continue
		default:
			harness.FailHelper(fmt.Errorf("take: %w", err))
		}
		if _, err := file.WriteString("begin " + pid + "\n"); err != nil {
			harness.FailHelper(err)
		}
		time.Sleep(time.Duration(rand.IntN(int(time.Millisecond))))
		if _, err := file.WriteString("end " + pid + "\n"); err != nil {
			harness.FailHelper(err)
		}
		if err := unix.Unlink(lock); err != nil {
			harness.FailHelper(fmt.Errorf("release: %w", err))
		}
	}
}

// TestHammer runs 24 processes that take the same lock, and 24 with a lock each, and kills them at random. In a
// witness file "begin" may only follow "end", or the death of the process that wrote the last "begin".
func TestHammer(t *testing.T) {
	t.Parallel()
	length := time.Minute
	if text := os.Getenv("HAMMER_TIME"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	} else if testing.Short() {
		length = 5 * time.Second
	} else if harness.RaceEnabled {
		length = 20 * time.Second // the race detector finds a race soon
	}
	m := harness.MountOver(t, t.TempDir())
	const each = 24
	witness := func(i int) string { return m.Path("witness-" + strconv.Itoa(max(i-each+1, 0))) }
	lock := func(i int) string { return m.Path("hammer-" + strconv.Itoa(max(i-each+1, 0)) + ".lock") }
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(i int) *exec.Cmd {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), harness.HelperVariable+"=hammer", "HAMMER_LOCK="+lock(i), "HAMMER_WITNESS="+witness(i))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	var processes [2 * each]*exec.Cmd
	killed := make(map[string]bool)
	kill := func(i int) {
		killed[strconv.Itoa(processes[i].Process.Pid)] = true
		_ = processes[i].Process.Kill()
		if err := processes[i].Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("a process ended with %v", err)
		}
	}
	for i := range processes {
		processes[i] = start(i)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	kills := 0
	for end := time.Now().Add(length); time.Now().Before(end); kills++ {
		time.Sleep(time.Duration(random.IntN(int(60 * time.Millisecond))))
		i := random.IntN(len(processes))
		kill(i)
		processes[i] = start(i)
	}
	for i := range processes {
		kill(i)
	}

	turns := 0
	for i := each - 1; i < 2*each; i++ {
		holder := ""
		file, err := os.Open(witness(i))
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var what, pid string
			if _, err := fmt.Sscan(lines.Text(), &what, &pid); err != nil {
				t.Fatalf("%q: %v", lines.Text(), err)
			}
			switch {
			case what == "begin" && (holder == "" || killed[holder]):
				holder = pid
				count++
			case what == "end" && holder == pid:
				holder = ""
			default:
				t.Fatalf("%s: %q while %s holds", filepath.Base(witness(i)), lines.Text(), holder)
			}
		}
		file.Close()
		if count == 0 {
			t.Errorf("no process ever took %s", lock(i))
		}
		turns += count
		other := harness.StartProcess(t)
		harness.Eventually(t, lock(i)+" is free", func() bool { return other.Do("take", lock(i)) == "ok" })
		other.Must("ok", "remove", lock(i))
		other.Kill()
	}
	t.Logf("%d turns, %d kills in %v", turns, kills, length)
}
