package bootid

import (
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connectedHost is a Host that takes exits from the kernel's events.
func connectedHost(t *testing.T) *Host {
	t.Helper()
	connector, err := newConnector()
	if err != nil {
		t.Skip(err)
	}
	h := newHost(t)
	h.watcher.exits.once.Do(func() { h.watcher.exits.name, h.watcher.exits.connector = ExitsFromConnector, connector })
	return h
}

// startReading starts a process that reads from in, and so waits until that is closed.
func startReading(t *testing.T, h *Host, words ...string) (cmd *exec.Cmd, in io.Closer, p Process) {
	t.Helper()
	cmd = exec.Command(words[0], words[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	run(t, cmd)
	if p, err = h.Process(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return cmd, in, p
}

// threadsScript is Python: the first thread ends, then another one ends the process.
const threadsScript = `
import ctypes, os, sys, threading, time
def end():
    time.sleep(0.2)
    sys.stdin.readline()
    os._exit(3)
threading.Thread(target=end).start()
ctypes.CDLL(None).pthread_exit(None)`

// TestConnectorTellsExit: how a process ended is known from the kernel's events alone, also after its parent has
// reaped it.
func TestConnectorTellsExit(t *testing.T) {
	h := connectedHost(t)
	for _, c := range []struct {
		words []string
		exit  Exit
	}{
		{[]string{"sh", "-c", "read x; exit 0"}, ExitSuccess},
		{[]string{"sh", "-c", "read x; exit 3"}, ExitFailure},
		{[]string{"sh", "-c", "read x; kill -9 $$"}, ExitSignal},
		{[]string{"python3", "-c", threadsScript}, ExitFailure},
	} {
		if _, err := exec.LookPath(c.words[0]); err != nil {
			t.Log(err)
			continue
		}
		cmd, in, p := startReading(t, h, c.words...)
		watch, err := h.Watch(p, func() {})
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		_ = cmd.Wait()
		if exit := h.watcher.exits.connector.exitOf(watch.(*processWatch).exits); exit != c.exit {
			t.Errorf("%s: %v", c.words[2], exit)
		}
		watch.Stop()
	}
	if n := len(h.watcher.exits.connector.watched); n != 0 {
		t.Errorf("%d are watched after all", n)
	}
}

// TestConnectorListensOnlyWhileWatching: nothing comes while no process is watched.
func TestConnectorListensOnlyWhileWatching(t *testing.T) {
	h := connectedHost(t)
	self, err := h.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	fd := h.watcher.exits.connector.fd
	pending := func() bool {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, _ := unix.Poll(fds[:], 0)
		return n == 1
	}
	e := h.watcher.exits.connector.watch(self)
	_ = start(t, "true").Wait()
	waitFor(t, "no event while a process is watched", pending)
	h.watcher.exits.connector.drainAll()
	h.watcher.exits.connector.forget(e)
	_ = start(t, "true").Wait()
	time.Sleep(10 * time.Millisecond)
	if pending() {
		t.Error("events while no process is watched")
	}
}

// TestConnectorLostEvents: where events are lost an exit is unknown, and that of a process that runs on is not.
func TestConnectorLostEvents(t *testing.T) {
	h := connectedHost(t)
	c := h.watcher.exits.connector
	if err := unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil { // the least there may be
		t.Fatal(err)
	}
	self, err := h.Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	runs := c.watch(self)
	cmd, in, p := startReading(t, h, "sh", "-c", "read x; exit 3")
	e := c.watch(p)
	for range 20 {
		_ = start(t, "true").Wait()
	}
	in.Close()
	_ = cmd.Wait()
	if exit := c.exitOf(e); exit != ExitUnknown {
		t.Errorf("lost: %v", exit)
	}
	if runs.lost || runs.heard {
		t.Errorf("of a process that runs: %+v", runs)
	}
}

// TestConnectorOtherProcess: what is heard of a pid while its process runs on, or long after its end, is of
// another process; two ends of one process are none.
func TestConnectorOtherProcess(t *testing.T) {
	h := newHost(t)
	cmd := start(t, "sleep", "1000")
	p, err := h.Process(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	e := &exitEvents{process: p}
	c := &connector{watched: map[int][]*exitEvents{p.PID: {e}}}
	c.hear(p.PID, p.PID, 9, 0)
	if e.heard {
		t.Error("a process that runs has ended")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	e.told = time.Second
	c.hear(p.PID, p.PID, 0, time.Second+exitWait+1)
	if e.heard {
		t.Error("the next with that pid")
	}
	c.hear(p.PID, p.PID, 0, time.Second)
	c.hear(p.PID, p.PID, 9, time.Second)
	if !e.heard || !e.lost {
		t.Errorf("two ends: %+v", e)
	}
}

func TestPidfdTellsExit(t *testing.T) {
	cmd := start(t, "true")
	pidfd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(pidfd)
	_ = cmd.Wait()
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	tells := pidfdInfo(pidfd, &info) == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0
	if PidfdTellsExit() != tells {
		t.Errorf("it is %v", tells)
	}
}
