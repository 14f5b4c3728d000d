package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	latch "latchfs/fs"
	"latchfs/fs/backing"
	"latchfs/fs/handover"
)

// exitHandedOver is the exit code of a server that made way for another.
const exitHandedOver = 42

// Descriptors that a server starts with.
const (
	programFD = 3 + iota // what it is started from
	tablesFD
	keeperFD // of a socket pair; the first message is the serverConfig
	// Of a mount whose keeper has died.
	deviceFD
	rootFD
)

// Messages between the two.
const (
	messageClaim   = "claim"    // server: keep this descriptor of the directory beneath, which claims it
	messageServing = "serving"  // server: the mount is usable
	messageBound   = "bound"    // server: so it is, but it dies with this server
	messageYield   = "make way" // keeper: end, and leave what is not answered to the next
	messageLimit   = 1 << 16
)

// serverConfig is what a server is to serve. A newer one may read that of an older keeper.
type serverConfig struct {
	Dir      string
	Flags    mountFlags
	Keeper   int    // the keeper's process
	Claim    int64  // what it claims the directory with
	OOMScore string // of the server
	Daemon   bool   // the log goes to a file
	// Storable says that a service manager may keep descriptors, Stored that it did.
	Storable, Stored bool
}

// keeper starts the servers of one mount.
type keeper struct {
	config  serverConfig
	log     *logrus.Logger
	tables  *os.File
	claim   *os.File // nil if there is none
	program *os.File // what servers are started from, whatever happens to its path
	path    string   // where it was, and where another version will be
	signals chan os.Signal
	// stored is what a service manager kept, until a server has taken it over.
	stored *backing.Stored

	served   bool // a server has served
	bound    bool // the mount dies with its server
	stopping os.Signal
	loud     func()
	backoff  time.Duration
}

const (
	leastBackoff = 50 * time.Millisecond
	mostBackoff  = 5 * time.Second
	// steady is how long a server has run that will not die at once again.
	steady = 10 * time.Second
)

// oomScore is how likely the kernel kills a process when memory runs out (proc_pid_oom_score_adj(5)).
const oomScore = "/proc/self/oom_score_adj"

// protect has the kernel kill almost anything else first, as far as this user may, and returns what a
// server is to have.
func protect() (score string) {
	was, err := os.ReadFile(oomScore)
	if err != nil {
		return ""
	}
	_ = os.WriteFile(oomScore, []byte("-900"), 0)
	return strings.TrimSpace(string(was))
}

// keep runs servers until the mount is gone.
func (k *keeper) keep() error {
	runtime.LockOSThread()
	k.signals = make(chan os.Signal, 8)
	signal.Notify(k.signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	var err error
	if k.path, err = os.Executable(); err != nil {
		return err
	}
	if k.program, err = os.Open("/proc/self/exe"); err != nil {
		return err
	}
	k.config.OOMScore = protect()
	k.config.Storable = hasStore()
	if k.tables, k.stored = takeStored(k.config.Dir); k.tables != nil {
		k.log.WithField("dir", k.config.Dir).Warn("the keeper of the mount has died; going on with what the service manager kept")
	} else if k.tables, err = handover.New(); err != nil {
		return err
	}
	// DescriptorKeeper and notifiers whose server has died come to the keeper, to be waited for.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	for program := k.program; ; {
		end, err := k.runServer(program)
		switch {
		case err != nil && !k.served:
			return err
		case err != nil:
			k.log.WithError(err).Error("no server could be started; trying again")
			k.wait(end)
		case end.next != nil:
			program = end.next // on probation until it serves
			continue
		default:
			if done, err := k.after(end, program); done || err != nil {
				return err
			}
		}
		if program != k.program {
			program.Close()
			program = k.program
		}
	}
}

// ending is how a server ended.
type ending struct {
	state  *os.ProcessState
	served bool
	lived  time.Duration
	next   *os.File // the program that is to take over
}

// after decides what follows from it.
func (k *keeper) after(end ending, program *os.File) (done bool, err error) {
	code := end.state.ExitCode()
	log := k.log.WithFields(logrus.Fields{"dir": k.config.Dir, "server": end.state.Pid(), "reason": end.state.String()})
	switch {
	case code == 0:
		return true, nil
	case !k.served && k.stored != nil:
		log.Error("what the service manager kept cannot be gone on with: mounting anew")
		k.dropStored()
		unstore()
		return false, handover.Abandon(k.tables)
	case !k.served:
		// It has said why.
		os.Exit(max(code, exitFailure))
	case program != k.program && !end.served:
		if code != exitFormat {
			log.Error("the new version did not come up; the one before goes on")
			return false, nil
		}
		log.Warn("the new version cannot read the tables of the running one: mounting anew. Files that are open now fail")
		k.adopt(program)
		return false, handover.Abandon(k.tables)
	case code == exitBusy && end.served: // a second signal
		return true, coded{code, fmt.Errorf("left %s while it is in use", k.config.Dir)}
	case k.bound || code == exitFormat:
		log.Error("the server has died, and the mount with it: mounting anew. Files that are open now fail")
		if err := handover.Abandon(k.tables); err != nil {
			return true, err
		}
	default:
		log.Warn("the server has died; starting another")
	}
	k.wait(end)
	return false, nil
}

// wait waits before a server is started in the place of one that died of itself, unless it had run
// for some time. One that was killed, or whose handler panicked, is replaced at once.
func (k *keeper) wait(end ending) {
	var status syscall.WaitStatus
	if end.state != nil {
		status = end.state.Sys().(syscall.WaitStatus)
	}
	killed := status.Signaled() && status.Signal() == syscall.SIGKILL
	if killed || status.ExitStatus() == latch.ExitPanicked || end.served && end.lived > steady {
		k.backoff = 0
		return
	}
	time.Sleep(k.backoff)
	k.backoff = min(max(2*k.backoff, leastBackoff), mostBackoff)
}

// message is what a server says.
type message struct {
	text  string
	files []*os.File // to be stored
}

// runServer runs a server to its end.
func (k *keeper) runServer(program *os.File) (end ending, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return end, fmt.Errorf("socket pair: %w", err)
	}
	socket, theirs := os.NewFile(uintptr(pair[0]), "server"), os.NewFile(uintptr(pair[1]), "keeper")
	defer socket.Close()
	k.config.Stored = k.stored != nil
	config, err := json.Marshal(k.config)
	if err != nil {
		return end, err
	}
	if _, err := socket.Write(config); err != nil {
		return end, err
	}
	cmd := exec.Command(fmt.Sprintf("/proc/self/fd/%d", programFD), "serve", k.config.Dir)
	cmd.Args[0] = "latchfs"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{program, k.tables, theirs}
	if k.stored != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, k.stored.Device, k.stored.Root)
	}
	// A terminal's Ctrl-C reaches it through the keeper. It ends with the keeper's thread, this one.
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := time.Now()
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return end, fmt.Errorf("start a server: %w", err)
	}
	messages := make(chan message, 4)
	go func() {
		defer close(messages)
		for {
			text, files, err := receiveMessage(socket)
			if err == unix.EINTR {
				continue
			}
			if err != nil || text == "" {
				return
			}
			messages <- message{text, files}
		}
	}()
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	defer signal.Stop(orphans)
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // the state says how
		close(ended)
	}()
	for {
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
				_ = cmd.Process.Signal(k.stopping)
			}
		case sig := <-k.signals:
			if sig != unix.SIGHUP {
				k.stopping = sig
				if end.served || !k.served {
					_ = cmd.Process.Signal(sig)
				}
			} else if end.served && !k.bound {
				if end.next, err = os.Open(k.path); err != nil {
					k.log.WithError(err).Error("there is no program to upgrade to")
				} else if _, err := socket.Write([]byte(messageYield)); err != nil {
					k.log.WithError(err).Error("the server cannot be asked to make way")
				}
			} else {
				k.log.Error("the mount cannot be handed over to another server here; unmount it and mount it again")
			}
		case <-orphans:
			reapOrphans(cmd.Process.Pid)
		case <-ended:
			end.state, end.lived = cmd.ProcessState, time.Since(started)
			// Its end of the socket stays open in the descriptor keeper.
			_ = unix.Shutdown(int(socket.Fd()), unix.SHUT_RDWR)
			if messages != nil {
				for said := range messages { // what it said before it died
					end.served = k.hear(said, program) || end.served
				}
			}
			if end.state.ExitCode() != exitHandedOver && end.next != nil {
				end.next.Close() // it died first
				end.next = nil
			}
			return end, nil
		}
	}
}

// hear takes what a server of that program says, and reports whether it is that it serves.
func (k *keeper) hear(said message, program *os.File) (serves bool) {
	if said.text != messageClaim {
		k.serving(said, program)
		return true
	}
	if k.claim != nil {
		k.claim.Close()
	}
	k.claim = said.files[0]
	return false
}

// serving notes that a server of that program serves.
func (k *keeper) serving(said message, program *os.File) {
	k.bound = said.text == messageBound
	k.dropStored()
	var stored *backing.Stored
	if len(said.files) == 2 && !k.served && !k.bound {
		stored = &backing.Stored{Device: said.files[0], Root: said.files[1]}
	}
	if !k.served {
		if err := storeAll(k.tables, stored); err != nil {
			k.log.WithError(err).Warn("could not tell the service manager")
		}
	}
	for _, file := range said.files {
		file.Close()
	}
	k.adopt(program)
	// What it took to start the server: Go would keep some megabytes of that.
	defer debug.FreeOSMemory()
	if !k.served {
		k.served = true
		err := tellReady(k.config.Flags.StateDir)
		k.loud()
		if err != nil {
			k.log.WithError(err).Warn("could not tell that the mount is ready")
		}
	}
}

func (k *keeper) dropStored() {
	if k.stored != nil {
		k.stored.Device.Close()
		k.stored.Root.Close()
		k.stored = nil
	}
}

// adopt makes program what servers are started from.
func (k *keeper) adopt(program *os.File) {
	if program != k.program {
		k.program.Close()
		k.program = program
	}
}

// reapOrphans waits for the children that have ended, but for a server.
func reapOrphans(server int) {
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
