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

// The exit codes of lock that are not COMMAND's, as of flock(1) and env(1).
const (
	exitConflict  = 1   // the lock was not to be had in time
	exitCannotRun = 126 // COMMAND cannot be run
	exitNoCommand = 127 // there is no COMMAND
	exitBySignal  = 128 // and the number of the signal that ended COMMAND
)

type lockOptions struct {
	wait     float64 // seconds; negative is for ever
	nonblock bool
	conflict int // the exit code when it is not to be had in time
}

func lockCommand() *cobra.Command {
	var o lockOptions
	cmd := &cobra.Command{
		Use:   "lock [-w SECONDS | -n] FILE -- COMMAND...",
		Short: "Run COMMAND while holding the lock FILE, waiting in line for it",
		Long: `Take the lock FILE in a mount, run COMMAND, and remove FILE when it has ended. Who waits gets
the lock in the order of arrival, the moment it is released or its holder has died. FILE names COMMAND's
process: it is the holder, should latchfs lock itself be killed.

The exit code is that of COMMAND, 128 and the number of the signal that ended it, 127 or 126 if it
cannot be run, and 1 (-E) if the lock was not to be had in time.`,
		Example: "  latchfs lock -w 10 ~/sessions/deploy.lock -- ./deploy.sh",
		Args:    checkArgs(cobra.MinimumNArgs(2)),
		RunE:    func(_ *cobra.Command, args []string) error { return runLock(args[0], args[1:], o) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.Float64VarP(&o.wait, "wait", "w", -1, "seconds to wait at most; without it, for ever")
	flags.BoolVarP(&o.nonblock, "nonblock", "n", false, "do not wait at all")
	flags.IntVarP(&o.conflict, "conflict-exit-code", "E", exitConflict, "exit code when the lock is not to be had in time")
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
	// Whatever happens from here on, FILE is ours: it is removed, or goes with its holder.
	err = runHolding(taken, program, command)
	if removeErr := os.Remove(file); removeErr != nil && !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}

// takeLock makes FILE, waiting for its turn.
func takeLock(file string, o lockOptions) (*os.File, error) {
	root, name, err := inMount(file)
	if err != nil {
		return nil, err
	}
	line := filepath.Join(root, controlDir, "wait", name)
	if _, err := os.Stat(line); errors.Is(err, fs.ErrNotExist) {
		return nil, usageError{fmt.Errorf("%s: its name is not one of locks (see mount --lock-pattern)", file)}
	} else if err != nil {
		return nil, err
	}
	limit := time.Duration(o.wait * float64(time.Second))
	conflict := coded{o.conflict, fmt.Errorf("%s: not to be had within %v", file, limit)}
	// A read cannot be given up by a deadline, but with the process.
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
		case err == nil: // too late: the process ends
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

// awaitTurn reads a file of the directory wait, which answers when it is our turn.
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

// runHolding runs the command, with its pid in the lock, and passes signals on to it.
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
		complain(fmt.Errorf("%s does not name its holder: %w", taken.Name(), err))
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			// It may have ended; then there is nobody to tell.
			_ = cmd.Process.Signal(s)
		case err := <-ended:
			return commandExit(err)
		}
	}
}

// commandExit is how COMMAND ended, as an exit code.
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

// silent is an error of which everything was said.
type silent struct{}

func (silent) Error() string { return "" }
