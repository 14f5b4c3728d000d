package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// The exit codes of latchfs lock itself, after flock(1) and env(1). Any other code is that of COMMAND.
const (
	exitConflict  = 1   // the lock did not become free in time
	exitCannotRun = 126 // COMMAND cannot be run
	exitNoCommand = 127 // COMMAND was not found
	exitBySignal  = 128 // plus the number of the signal that ended COMMAND
)

type lockOptions struct {
	wait     float64 // seconds; negative means no limit
	nonblock bool
	conflict int // the exit code if the lock does not become free in time
}

func lockCommand() *cobra.Command {
	var o lockOptions
	cmd := &cobra.Command{
		Use:   "lock [-w SECONDS | -n] FILE -- COMMAND...",
		Short: "Run COMMAND while holding the lock FILE, waiting in line for it",
		Long: `Take the lock FILE in a mount, run COMMAND, and remove FILE when COMMAND has ended. Waiting callers get
the lock in the order of arrival, as soon as it is released or its holder dies. FILE contains the pid of
COMMAND, so COMMAND remains the holder if latchfs lock itself is killed.

The exit code is that of COMMAND; 128 plus the number of the signal that ended COMMAND; 127 if COMMAND was
not found; 126 if it cannot be run; or 1 (see -E) if the lock did not become free in time.`,
		Example: "  latchfs lock -w 10 ~/sessions/deploy.lock -- ./deploy.sh",
		Args:    checkArgs(cobra.MinimumNArgs(2)),
		RunE:    func(_ *cobra.Command, args []string) error { return runLock(args[0], args[1:], o) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Float64VarP(&o.wait, "wait", "w", -1, "the longest time to wait, in seconds (default: no limit)")
	flags.BoolVarP(&o.nonblock, "nonblock", "n", false, "do not wait")
	flags.IntVarP(&o.conflict, "conflict-exit-code", "E", exitConflict, "exit code if the lock does not become free in time")
	cmd.MarkFlagsMutuallyExclusive("wait", "nonblock")
	return cmd
}

func runLock(file string, command []string, o lockOptions) error {
	if command[0] == "--" {
		command = command[1:]
	}
	if len(command) == 0 {
		return usageError{errors.New("no COMMAND to run, see latchfs lock --help")}
	}
	program, err := exec.LookPath(command[0])
	switch {
	case errors.Is(err, fs.ErrPermission):
		return coded{exitCannotRun, err}
	case err != nil:
		return coded{exitNoCommand, err}
	}
	if o.nonblock {
		o.wait = 0
	}
	taken, err := takeLock(file, o)
	if err != nil {
		return err
	}
	// From here on, this process or COMMAND holds FILE: latchfs lock removes it, or latchfs reaps it when its holder ends.
	err = runHolding(taken, program, command)
	if removeErr := os.Remove(file); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// takeLock creates the lock file. If the lock is held, it waits in line.
func takeLock(file string, o lockOptions) (*os.File, error) {
	root, name, err := inMount(file)
	if err != nil {
		return nil, err
	}
	line := filepath.Join(root, controlDir, "wait", name)
	if _, err := os.Stat(line); errors.Is(err, fs.ErrNotExist) {
		return nil, usageError{fmt.Errorf("%s is not a lock name (see latchfs mount --lock-pattern)", file)}
	} else if err != nil {
		return nil, err
	}
	limit := time.Duration(o.wait * float64(time.Second))
	conflict := coded{o.conflict, fmt.Errorf("%s: the lock did not become free within %v", file, limit)}
	// The read in awaitTurn has no deadline: only the end of the process interrupts it.
	var over atomic.Bool
	if o.wait > 0 {
		timer := time.AfterFunc(limit, func() {
			if over.CompareAndSwap(false, true) {
				complain(conflict)
				os.Exit(o.conflict)
			}
		})
		defer timer.Stop()
	}
	for {
		taken, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		switch {
		case err == nil && over.CompareAndSwap(false, true):
			return taken, nil
		case err == nil: // too late: the timer is ending the process
			os.Remove(file)
			select {}
		case !errors.Is(err, fs.ErrExist):
			return nil, err
		case o.wait == 0:
			return nil, conflict
		}
		if err := awaitTurn(line); err != nil {
			return nil, err
		}
	}
}

// awaitTurn reads a file in .latchfs/wait. latchfs answers the read when it is the turn of this process.
func awaitTurn(path string) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	for {
		_, err = syscall.Read(fd, make([]byte, 256))
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return nil
}

// runHolding runs the command, writes its pid into the lock file and forwards signals to it.
func runHolding(taken *os.File, program string, command []string) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	// A terminal sends these to COMMAND too.
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT)
	defer signal.Stop(signals)
	cmd := &exec.Cmd{Path: program, Args: command, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if err := cmd.Start(); err != nil {
		taken.Close()
		return coded{exitCannotRun, err}
	}
	_, err := taken.WriteString(strconv.Itoa(cmd.Process.Pid) + "\n")
	if err = errors.Join(err, taken.Close()); err != nil {
		complain(fmt.Errorf("%s: could not write the pid of COMMAND into the lock: %w", taken.Name(), err))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// An error means that COMMAND has ended.
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			return commandExit(err)
		}
	}
}

// commandExit turns the error of exec.Cmd.Wait into an error with the exit code of COMMAND.
func commandExit(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		code = exitBySignal + int(status.Signal())
	}
	return coded{code, silent{}}
}

// silent is an error that needs no message, because COMMAND has printed its own.
type silent struct{}

func (silent) Error() string { return "" }
