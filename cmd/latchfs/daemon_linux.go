package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// readyVariable is the environment variable with the number of the descriptor on which a daemon reports that its mount
// is usable. If the daemon ends earlier, its exit code and its standard error give the reason.
const readyVariable = "LATCHFS_READY_FD"

const readyWord = "ready\n"

func isDaemon() bool { return os.Getenv(readyVariable) != "" }

// startDaemon runs this command again in its own session and returns when the mount is usable. If the daemon fails with
// an exit code, startDaemon ends this process with the same code.
func startDaemon(dir string, flags *pflag.FlagSet) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ready, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	args := []string{"mount"}
	flags.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			for _, value := range list.GetSlice() {
				args = append(args, "--"+f.Name+"="+value)
			}
			return
		}
		args = append(args, "--"+f.Name+"="+f.Value.String())
	})
	cmd := exec.Command(program, append(args, "--", dir)...)
	cmd.Env = append(os.Environ(), readyVariable+"=3")
	cmd.ExtraFiles = []*os.File{report}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	report.Close()
	word, err := io.ReadAll(ready)
	if err != nil {
		return err
	}
	if string(word) == readyWord {
		return cmd.Process.Release()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		// The daemon has printed the reason.
		os.Exit(exit.ExitCode())
	}
	return fmt.Errorf("the daemon ended before its mount was usable: %w", err)
}

// logToFile replaces standard error with the file log in the state directory, which releases the terminal.
func logToFile(stateDir string) error {
	log, err := os.OpenFile(filepath.Join(stateDir, "log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	return unix.Dup3(int(log.Fd()), unix.Stderr, 0)
}

// tellReady reports to the process that waits in startDaemon and releases its terminal.
func tellReady(stateDir string) error {
	number, err := strconv.Atoi(os.Getenv(readyVariable))
	if err != nil {
		return nil // in the foreground
	}
	report := os.NewFile(uintptr(number), "ready")
	defer report.Close()
	err = logToFile(stateDir)
	_, told := report.WriteString(readyWord)
	return errors.Join(err, told)
}
