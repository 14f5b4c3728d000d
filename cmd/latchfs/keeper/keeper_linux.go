package keeper

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	latch "latchfs/fs"
	"latchfs/fs/backing"
	"latchfs/fs/handover"
)

// Codes are the exit codes of a server that the keeper acts on.
type Codes struct {
	Format int // the server cannot read the tables
	Busy   int // a second signal ended the server while the mount is in use
}

// EndError reports the end of a server that ends the keeper, too.
type EndError struct {
	// Code is the exit code of the server, negative if a signal ended the server.
	Code int
	// Explained reports whether the server has logged the reason.
	Explained bool
}

func (e *EndError) Error() string { return fmt.Sprintf("the server ended with %d", e.Code) }

// Keeper supervises the servers of one mount. The caller sets the exported fields before Run.
type Keeper struct {
	Config Config
	Codes  Codes
	Log    *logrus.Logger
	// Command is the server's command line, without the program.
	Command []string
	// IsMounted reports whether latchfs is mounted at the directory.
	IsMounted func() bool
	// Run calls Ready once, when the first server serves.
	Ready func()

	tables  *os.File
	claim   *os.File // nil if there is none
	program *os.File // the program that servers are started from
	path    string   // path of the program; an upgrade puts the new version there
	signals chan os.Signal
	// stored holds the descriptors that a service manager kept, until a server has taken them over; nil otherwise.
	stored *backing.Stored

	served   bool // a server has served
	bound    bool // the mount dies with its server
	stopping os.Signal
	backoff  time.Duration
}

const (
	leastBackoff = 50 * time.Millisecond
	mostBackoff  = 5 * time.Second
	// steady is the lifetime after which the keeper replaces a server without delay.
	steady = 10 * time.Second
)

// oomScore is the file that adjusts how likely the kernel kills this process when memory runs out
// (proc_pid_oom_score_adj(5)).
const oomScore = "/proc/self/oom_score_adj"

// protect lowers the OOM score of the keeper, if this user may, so that the kernel kills almost any other process
// first. It returns the previous score, which the server gets.
func protect() (score string) {
	was, err := os.ReadFile(oomScore)
	if err != nil {
		return ""
	}
	_ = os.WriteFile(oomScore, []byte("-900"), 0)
	return strings.TrimSpace(string(was))
}

// Run runs servers until the mount is gone. It returns an *EndError if a server ended and the keeper cannot replace it.
func (k *Keeper) Run() error {
	runtime.LockOSThread()
	k.signals = make(chan os.Signal, 8)
	signal.Notify(k.signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	if err := k.prepare(); err != nil {
		return err
	}
	for program := k.program; ; {
		end, err := k.runServer(program)
		switch {
		case err != nil && !k.served:
			return err
		case err != nil:
			k.Log.WithError(err).Error("failed to start a server; trying again")
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

// prepare opens what the servers need.
func (k *Keeper) prepare() (err error) {
	if k.path, err = os.Executable(); err != nil {
		return err
	}
	if k.program, err = os.Open("/proc/self/exe"); err != nil {
		return err
	}
	k.Config.OOMScore = protect()
	k.Config.Storable = hasStore()
	if k.tables, k.stored = takeStored(k.IsMounted); k.tables != nil {
		k.Log.WithField("dir", k.Config.Dir).Warn("the previous keeper of the mount has died; resuming from the descriptors of the service manager")
	} else if k.tables, err = handover.New(); err != nil {
		return err
	}
	// Descriptor keepers and inotify notifiers of a dead server become children of the keeper, which waits for them.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	return nil
}

// after handles the end of a server. It reports whether the keeper is done.
func (k *Keeper) after(end ending, program *os.File) (done bool, err error) {
	code := end.state.ExitCode()
	log := k.Log.WithFields(logrus.Fields{"dir": k.Config.Dir, "server": end.state.Pid(), "reason": end.state.String()})
	switch {
	case code == 0:
		return true, nil
	case !k.served && k.stored != nil:
		log.Error("the descriptors of the service manager are unusable; mounting again")
		k.dropStored()
		unstore()
		return false, handover.Abandon(k.tables)
	case !k.served:
		return true, &EndError{Code: code, Explained: true}
	case program != k.program && !end.served:
		if code != k.Codes.Format {
			log.Error("the new version failed to start; the previous version continues")
			return false, nil
		}
		log.Warn("the new version cannot read the tables of the running version; mounting again. Open files fail")
		k.adopt(program)
		return false, handover.Abandon(k.tables)
	case code == k.Codes.Busy && end.served: // a second signal
		return true, &EndError{Code: code}
	case k.bound || code == k.Codes.Format:
		log.Error("the server has died together with its mount; mounting again. Open files fail")
		if err := handover.Abandon(k.tables); err != nil {
			return true, err
		}
	default:
		log.Warn("the server has died; starting another server")
	}
	k.wait(end)
	return false, nil
}

// wait delays the replacement of a server that failed soon after its start. It does not delay the replacement of a
// server that SIGKILL or a panic of a request handler ended, or that had served and run for longer than steady.
func (k *Keeper) wait(end ending) {
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

// hear handles a message of a server that runs the program. It reports whether the server now serves.
func (k *Keeper) hear(said message, program *os.File) (serves bool) {
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

// serving records that a server that runs the program now serves.
func (k *Keeper) serving(said message, program *os.File) {
	k.bound = said.text == messageBound
	k.dropStored()
	var stored *backing.Stored
	if len(said.files) == 2 && !k.served && !k.bound {
		stored = &backing.Stored{Device: said.files[0], Root: said.files[1]}
	}
	if !k.served {
		if err := storeAll(k.tables, stored); err != nil {
			k.Log.WithError(err).Warn("failed to notify the service manager")
		}
	}
	for _, file := range said.files {
		file.Close()
	}
	k.adopt(program)
	// Return the memory that the start of the server took; the Go runtime would keep some megabytes.
	defer debug.FreeOSMemory()
	if !k.served {
		k.served = true
		k.Ready()
	}
}

func (k *Keeper) dropStored() {
	if k.stored != nil {
		k.stored.Device.Close()
		k.stored.Root.Close()
		k.stored = nil
	}
}

// adopt makes program the program that servers start from.
func (k *Keeper) adopt(program *os.File) {
	if program != k.program {
		k.program.Close()
		k.program = program
	}
}

// handleSignal passes a signal on to a server. SIGHUP asks the server to hand over to the program that is now on
// disk: it opens the program as end.next.
func (k *Keeper) handleSignal(sig os.Signal, s *serverProcess, end *ending) {
	switch {
	case sig != unix.SIGHUP:
		k.stopping = sig
		if end.served || !k.served {
			_ = s.cmd.Process.Signal(sig)
		}
	case end.served && !k.bound:
		next, err := os.Open(k.path)
		if err != nil {
			k.Log.WithError(err).Error("failed to open the program to upgrade to")
			return
		}
		if _, err := s.socket.Write([]byte(messageYield)); err != nil {
			k.Log.WithError(err).Error("failed to ask the server to hand over")
		}
		if end.next != nil {
			end.next.Close()
		}
		end.next = next
	default:
		k.Log.Error("this mount cannot be handed over to another server; unmount it and mount it again")
	}
}
