//go:build linux

package integration

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serviceManager plays systemd's part in keeping descriptors (sd_notify(3), sd_listen_fds(3)).
type serviceManager struct {
	t      *testing.T
	socket *net.UnixConn
	stored map[string]*os.File
}

func newServiceManager(t *testing.T) (s *serviceManager, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	return &serviceManager{t, socket, make(map[string]*os.File)}, path
}

// untilReady receives what a service says until it is ready.
func (s *serviceManager) untilReady() {
	s.t.Helper()
	if err := s.socket.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	for {
		text, control := make([]byte, 4096), make([]byte, 4096)
		n, controlled, _, _, err := s.socket.ReadMsgUnix(text, control)
		if err != nil {
			s.t.Fatal(err)
		}
		said := string(text[:n])
		if said == "READY=1" {
			return
		}
		_, name, isStore := strings.Cut(said, "FDSTORE=1\nFDNAME=")
		messages, err := unix.ParseSocketControlMessage(control[:controlled])
		if err != nil || !isStore || len(messages) != 1 {
			s.t.Fatalf("%q %v", said, err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 {
			s.t.Fatal(err)
		}
		s.stored[name] = os.NewFile(uintptr(fds[0]), name)
	}
}

// restart starts the service again, with what was stored.
func (s *serviceManager) restart(m *mount) {
	s.t.Helper()
	names := []string{"latchfs-tables", "latchfs-device", "latchfs-root"}
	for _, name := range names {
		m.files = append(m.files, s.stored[name])
		if s.stored[name] == nil {
			s.t.Fatalf("%s was not stored", name)
		}
	}
	m.env = append(m.env, "LISTEN_FDS=3", "LISTEN_FDNAMES="+strings.Join(names, ":"))
	m.start("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-")
}

// TestKeeperKilledUnderAServiceManager: with a descriptor store the mount outlives even its keeper.
func TestKeeperKilledUnderAServiceManager(t *testing.T) {
	manager, path := newServiceManager(t)
	m := (&mount{t: t, env: []string{"NOTIFY_SOCKET=" + path}}).over(t.TempDir())
	manager.untilReady()
	t.Cleanup(func() { // before the mount's own clean-up: it would live on
		for _, file := range manager.stored {
			file.Close()
		}
	})
	holder, dies := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("held.lock"))
	dies.must("ok", "take", m.path("dead.lock"))
	session, err := os.OpenFile(m.path("session"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := unix.Mkdir(m.path("sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(m.path("sub"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	write := func() {
		t.Helper()
		if _, err := session.WriteString("line\n"); err != nil {
			t.Error(err)
		}
	}
	write()
	server := m.server()
	m.kill()
	eventually(t, "its server has ended too", func() bool { return ended(server) })
	dies.kill()
	done := make(chan error, 1)
	go func() { // waits rather than failing
		done <- os.WriteFile(m.path("sub/file"), []byte("text"), 0o644)
	}()
	manager.restart(m)
	if err := <-done; err != nil {
		t.Error(err)
	}
	write()
	if text, err := os.ReadFile(m.path("session")); string(text) != "line\nline\n" {
		t.Errorf("%q %v", text, err)
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Error(names, err)
	}
	eventually(t, "the dead one's lock is free", func() bool { return !exists(m.path("dead.lock")) })
	if l := m.locks()["held.lock"]; l.Verdict != "live" || l.Holder.PID != holder.cmd.Process.Pid {
		t.Errorf("%+v", l)
	}
	newLocker(t).must("EEXIST", "take", m.path("held.lock"))
	// And from then on as before.
	m.killServer()
	write()
}

// TestWatchdog: a service manager that wants to know is told that the server is alive, after its replacement too.
func TestWatchdog(t *testing.T) {
	manager, path := newServiceManager(t)
	m := (&mount{t: t, env: []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=150000"}}).over(t.TempDir())
	manager.untilReady()
	t.Cleanup(func() {
		for _, file := range manager.stored {
			file.Close()
		}
	})
	for range 2 {
		text := make([]byte, 4096)
		for alive := 0; alive < 3; {
			n, err := manager.socket.Read(text)
			if err != nil {
				t.Fatal(err)
			}
			if string(text[:n]) == "WATCHDOG=1" {
				alive++
			}
		}
		m.killServer()
		m.eventuallyServed()
	}
}
