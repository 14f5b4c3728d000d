//go:build linux

package restart

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// A client is a process that takes and releases locks, and knows which locks it holds.
type client struct {
	t       *testing.T
	p       *harness.Process
	number  int32
	names   []string
	holders []atomic.Int32 // the client that holds each name; 0 for none
	takes   int
}

// dead reports whether an answer is that of a mount without a server.
func dead(answer string) bool { return answer == "ENOTCONN" || answer == "ECONNABORTED" }

// insist repeats a call until a server answers, and reports whether it had to.
func (c *client) insist(words ...string) (answer string, again bool) {
	for {
		if answer = c.p.Do(words...); !dead(answer) {
			return answer, again
		}
		again = true
		time.Sleep(5 * time.Millisecond)
	}
}

// turn takes a lock if it is free, holds it for a moment, and releases it or dies with it.
func (c *client) turn() {
	i := rand.IntN(len(c.names))
	name := c.names[i]
	answer, again := c.insist("take", name)
	if again && answer == "EEXIST" {
		// The client may hold it itself, from the call without an answer.
		if answer, _ = c.insist("remove", name); answer != "ok" && answer != "EBUSY" && answer != "ENOENT" {
			c.t.Errorf("remove what may be its own: %s", answer)
		}
		return
	}
	if answer == "EEXIST" {
		time.Sleep(time.Millisecond)
		return
	}
	if answer != "ok" {
		c.t.Errorf("take: %s", answer)
		return
	}
	c.takes++
	if other := c.holders[i].Swap(c.number); other != 0 {
		c.t.Errorf("%s: two holders, %d and %d", name, other, c.number)
	}
	time.Sleep(rand.N(10 * time.Millisecond))
	c.holders[i].Store(0)
	if rand.IntN(50) == 0 {
		c.p.Kill()
		c.p = harness.StartProcess(c.t)
		return
	}
	// A call without an answer may have removed the lock. Then the lock is free, or another client's.
	if answer, again := c.insist("remove", name); answer != "ok" && !(again && (answer == "ENOENT" || answer == "EBUSY")) {
		c.t.Errorf("%s: a live lock was lost: its holder's remove is answered %s", name, answer)
	}
}

// startClients starts 16 clients, which take turns until stop is closed.
func startClients(t *testing.T, all *sync.WaitGroup, stop <-chan struct{}, names []string, holders []atomic.Int32) (clients []*client) {
	t.Helper()
	for i := range 16 {
		c := &client{t: t, p: harness.StartProcess(t), number: int32(i + 1), names: names, holders: holders}
		clients = append(clients, c)
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					c.turn()
				}
			}
		})
	}
	return clients
}

// TestMountKilled kills keeper and server together while 16 processes take and release locks, and runs latchfs
// mount again. KEEPER_KILLS is the number of kills.
func TestMountKilled(t *testing.T) {
	kills := harness.EnvNumber(t, "KEEPER_KILLS", 25)
	m := harness.MountOver(t, t.TempDir())
	var names []string
	for i := range 12 {
		names = append(names, m.Path(fmt.Sprintf("%d.lock", i)))
	}
	holders := make([]atomic.Int32, len(names))
	stop := make(chan struct{})
	var all sync.WaitGroup
	clients := startClients(t, &all, stop, names, holders)
	var took []time.Duration
	for range kills {
		time.Sleep(50*time.Millisecond + rand.N(200*time.Millisecond))
		for _, server := range harness.Children(m.Keeper.Process.Pid) {
			_ = unix.Kill(server, unix.SIGKILL)
		}
		m.Kill()
		start := time.Now()
		if err := m.TryStart(); err != nil {
			t.Error(err)
			break
		}
		if _, err := os.ReadFile(m.Path(".latchfs/status")); err != nil {
			t.Errorf("after a new mount: %v", err)
		}
		took = append(took, time.Since(start))
	}
	close(stop)
	all.Wait()
	takes := 0
	for _, c := range clients {
		takes += c.takes
		c.p.Kill()
	}
	other := harness.StartProcess(t)
	for _, name := range names {
		harness.Eventually(t, name+" is free", func() bool { return other.Do("take", name) == "ok" })
		other.Must("ok", "remove", name)
	}
	if takes < 10*kills {
		t.Errorf("locks were taken %d times only", takes)
	}
	slices.Sort(took)
	if len(took) > 0 {
		t.Logf("%d kills of keeper and server, locks taken %d times; usable again after median %v, worst %v",
			len(took), takes, took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	}
}
