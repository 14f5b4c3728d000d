package keeper

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// serverProcess is a running server.
type serverProcess struct {
	cmd      *exec.Cmd
	socket   *os.File
	started  time.Time
	messages chan message
	ended    chan struct{}
}

// ending describes how a server ended.
type ending struct {
	state  *os.ProcessState
	served bool
	lived  time.Duration
	next   *os.File // the program that takes over; nil if none does
}

// startServer starts a server that runs the program.
func (k *Keeper) startServer(program *os.File) (*serverProcess, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket pair: %w", err)
	}
	socket, theirs := os.NewFile(uintptr(pair[0]), "server"), os.NewFile(uintptr(pair[1]), "keeper")
	defer theirs.Close()
	k.Config.Stored = k.stored != nil
	config, err := json.Marshal(k.Config)
	if err == nil {
		_, err = socket.Write(config)
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", programFD), k.Command...)
	cmd.Args[0] = "latchfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{program, k.tables, theirs}
	if k.stored != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.stored.Device, k.stored.Root)
	}
	// A terminal's Ctrl-C reaches the server through the keeper. The server ends with the keeper's thread, this one.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	s := &serverProcess{
		cmd: cmd, socket: socket, started: time.Now(), messages: make(chan message, 4), ended: make(chan struct{}),
	}
	if err := cmd.Start(); err != nil {
		socket.Close()
		return nil, fmt.Errorf("start a server: %w", err)
	}
	go s.receive()
	go func() {
		_ = cmd.Wait() // cmd.ProcessState has the exit status
		close(s.ended)
	}()
	return s, nil
}

// receive forwards the messages of the server until the socket is closed.
func (s *serverProcess) receive() {
	defer close(s.messages)
	for {
		text, files, err := receiveMessage(s.socket)
		if err == unix.EINTR {
			continue
		}
		if err != nil || text == "" {
			return
		}
		s.messages <- message{text, files}
	}
}

// runServer starts a server and waits for its end.
func (k *Keeper) runServer(program *os.File) (end ending, err error) {
	s, err := k.startServer(program)
	if err != nil {
		return end, err
	}
	defer s.socket.Close()
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	defer signal.Stop(orphans)
	for messages := s.messages; ; {
		select {
		case said, open := <-messages:
			if !open {
				messages = nil
				continue
			}
			if !k.hear(said, program) {
				continue
			}
			end.served = true
			if k.stopping != nil {
				_ = s.cmd.Process.Signal(k.stopping)
			}
		case sig := <-k.signals:
			k.handleSignal(sig, s, &end)
		case <-orphans:
			waitForOrphans(s.cmd.Process.Pid)
		case <-s.ended:
			end.state, end.lived = s.cmd.ProcessState, time.Since(s.started)
			// The server's end of the socket stays open in its descriptor keeper.
			_ = unix.Shutdown(int(s.socket.Fd()), unix.SHUT_RDWR)
			for said := range s.messages { // sent before the server died
				end.served = k.hear(said, program) || end.served
			}
			if end.state.ExitCode() != ExitHandedOver && end.next != nil {
				end.next.Close() // the server died before it could hand over
				end.next = nil
			}
			return end, nil
		}
	}
}

// waitForOrphans reaps the ended children of the keeper other than the server.
func waitForOrphans(server int) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		pid := int((*[5]int32)(unsafe.Pointer(&info))[4]) // si_pid, on 64 bits
		if err != nil || pid == 0 || pid == server {
			return
		}
		_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}
