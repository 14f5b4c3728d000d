//go:build linux

package cli

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// terminal returns a terminal, and a file from which its output can be read.
func terminal(t *testing.T) (terminal, printed *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	printed = os.NewFile(uintptr(fd), "terminal")
	t.Cleanup(func() { terminal.Close(); printed.Close() })
	return terminal, printed
}

// TestEventsCommand checks that latchfs events prints at once, to a pipe and to a terminal, also across a restart
// of the server.
func TestEventsCommand(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder := harness.StartProcess(t)
	for _, to := range []string{"pipe", "terminal"} {
		t.Run(to, func(t *testing.T) {
			out, printed := terminal(t)
			if to == "pipe" {
				var err error
				if printed, out, err = os.Pipe(); err != nil {
					t.Fatal(err)
				}
				defer printed.Close()
				defer out.Close()
			}
			cmd := exec.Command(harness.Latchfs, "events", m.Dir)
			cmd.Stdout, cmd.Stderr = out, os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer cmd.Process.Kill()
			lines := make(chan string, 1000)
			go func() {
				for scan := bufio.NewScanner(printed); scan.Scan(); {
					lines <- scan.Text()
				}
			}()
			expect := func(words string) {
				t.Helper()
				for {
					select {
					case line := <-lines:
						if strings.Contains(line, words) {
							return
						}
					case <-time.After(20 * time.Second):
						t.Fatalf("%q is not printed", words)
					}
				}
			}
			harness.Eventually(t, "it follows", func() bool { return m.Metric("latchfs_event_readers") == 1 })
			holder.Must("ok", "take", m.Path("x.lock"))
			expect("acquired  x.lock")
			m.KillServer()
			m.WaitUntilServed()
			expect("restarted")
			holder.Must("ok", "remove", m.Path("x.lock"))
			expect("released  x.lock")
		})
		harness.Eventually(t, "it has ended", func() bool { return m.Metric("latchfs_event_readers") == 0 })
	}
}

// TestPollWait checks that a process that polls wait/NAME is in line, learns of its turn, even if the server is
// killed, and leaves the line when it closes the file. Other control files are always ready.
func TestPollWait(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	ordinary, err := os.Open(m.Path("x.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer ordinary.Close()
	poll := func(file *os.File) int16 {
		t.Helper()
		conn, err := file.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		polled := []unix.PollFd{{Events: unix.POLLIN}}
		if err := conn.Control(func(fd uintptr) {
			polled[0].Fd = int32(fd)
			for _, err = unix.Poll(polled, 0); err == unix.EINTR; _, err = unix.Poll(polled, 0) {
			}
		}); err != nil {
			t.Fatal(err)
		}
		return polled[0].Revents
	}
	if poll(ordinary) != unix.POLLIN {
		t.Error("an ordinary file is not ready")
	}
	for _, c := range []struct{ killed, blocking bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		open := func() *os.File {
			t.Helper()
			file, err := os.Open(m.WaitFile("x.lock"))
			if err != nil {
				t.Fatal(err)
			}
			return file
		}
		file, given := open(), open()
		m.WaitForWaiters(2) // Go polls the files that it opens
		given.Close()
		m.WaitForWaiters(1)
		if got := poll(file); got != 0 {
			t.Errorf("the lock is held, and it is ready for %x", got)
		}
		if c.blocking {
			file.Fd()
		}
		read := make(chan string, 1)
		go func() {
			text := make([]byte, 200)
			n, err := file.Read(text)
			read <- fmt.Sprintf("%s%v", text[:n], err)
		}()
		if c.killed {
			m.KillServer()
			m.WaitUntilServed()
			m.WaitForWaiters(1)
		}
		holder.Must("ok", "remove", m.Path("x.lock"))
		select {
		case text := <-read:
			if !strings.HasPrefix(text, "x.lock is free") {
				t.Error(text)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("not told")
		}
		if poll(file) != unix.POLLIN {
			t.Error("what was answered is not ready")
		}
		file.Close()
		m.WaitForWaiters(0)
		harness.Eventually(t, "the turn is over", func() bool { return holder.Do("take", m.Path("x.lock")) == "ok" })
	}
}
