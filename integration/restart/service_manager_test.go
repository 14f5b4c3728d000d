//go:build linux

package restart

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// serviceManager keeps descriptors for a service as systemd does (sd_notify(3), sd_listen_fds(3)).
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

// untilReady receives messages of the service until it is ready.
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

// restart starts the service again, with the descriptors that it has stored.
func (s *serviceManager) restart(m *harness.Mount) {
	s.t.Helper()
	names := []string{"latchfs-tables", "latchfs-device", "latchfs-root"}
	for _, name := range names {
		m.Files = append(m.Files, s.stored[name])
		if s.stored[name] == nil {
			s.t.Fatalf("%s was not stored", name)
		}
	}
	m.Env = append(m.Env, "LISTEN_FDS=3", "LISTEN_FDNAMES="+strings.Join(names, ":"))
	m.Start("sh", "-c", `LISTEN_PID=$$ exec "$@"`, "-")
}

// TestKeeperKilledUnderAServiceManager checks that with a descriptor store the mount survives the death of the
// keeper too.
func TestKeeperKilledUnderAServiceManager(t *testing.T) {
	t.Parallel()
	manager, path := newServiceManager(t)
	m := (&harness.Mount{T: t, Env: []string{"NOTIFY_SOCKET=" + path}}).Over(t.TempDir())
	manager.untilReady()
	t.Cleanup(func() { // before CleanUp, which would wait for it
		for _, file := range manager.stored {
			file.Close()
		}
	})
	holder, dies := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("held.lock"))
	dies.Must("ok", "take", m.Path("dead.lock"))
	session, err := os.OpenFile(m.Path("session"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	if err := unix.Mkdir(m.Path("sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(m.Path("sub"))
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
	server := m.Server()
	m.Kill()
	harness.Eventually(t, "its server has ended too", func() bool { return harness.HasEnded(server) })
	dies.Kill()
	done := make(chan error, 1)
	go func() { // the call waits and does not fail
		done <- os.WriteFile(m.Path("sub/file"), []byte("text"), 0o644)
	}()
	manager.restart(m)
	if err := <-done; err != nil {
		t.Error(err)
	}
	write()
	if text, err := os.ReadFile(m.Path("session")); string(text) != "line\nline\n" {
		t.Errorf("%q %v", text, err)
	}
	if names, err := dir.Readdirnames(-1); err != nil || len(names) != 1 {
		t.Error(names, err)
	}
	harness.Eventually(t, "the dead one's lock is free", func() bool { return !harness.Exists(m.Path("dead.lock")) })
	if l := m.Locks()["held.lock"]; l.Verdict != "live" || l.Holder.PID != holder.Cmd.Process.Pid {
		t.Errorf("%+v", l)
	}
	harness.StartProcess(t).Must("EEXIST", "take", m.Path("held.lock"))
	// The mount works from then on as before.
	m.KillServer()
	write()
}

// TestWatchdog checks that a service manager with a watchdog is told that the server is alive, also after the
// server was replaced.
func TestWatchdog(t *testing.T) {
	t.Parallel()
	manager, path := newServiceManager(t)
	m := (&harness.Mount{T: t, Env: []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=150000"}}).Over(t.TempDir())
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
		m.KillServer()
		m.WaitUntilServed()
	}
}
