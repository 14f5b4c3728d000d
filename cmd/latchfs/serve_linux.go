package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"latchfs/cmd/latchfs/keeper"
)

// How much garbage there may be before it is collected, in percent of what is in use. Recovery makes hardly any garbage, so
// that a lock takes about half a KiB.
const (
	gcWhileRecovering = -1 // never
	gcWhileServing    = 30
)

// serveCommand is the command that a keeper starts.
func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "serve DIR",
		Short:  "Answer the requests of a mount; started by latchfs mount",
		Hidden: true,
		Args:   oneDir,
		RunE:   func(*cobra.Command, []string) error { return runServe() },
	}
}

// runServe mounts, or takes over the mount of a server that has died, and serves it.
func runServe() error {
	// The kernel names a process that is started from a descriptor by the descriptor's number.
	_ = os.WriteFile("/proc/self/comm", []byte("latchfs-server"), 0)
	var flags mountFlags
	supervisor, err := keeper.Connect()
	if err == nil {
		err = json.Unmarshal(supervisor.Config.Flags, &flags)
	}
	if err != nil {
		return usageError{fmt.Errorf("latchfs mount starts this: %w", err)}
	}
	stop := make(chan os.Signal, 4)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP)
	log, err := newLog(os.Stderr, flags.LogLevel, flags.LogFormat)
	if err != nil {
		return err
	}
	loud := hush(log, supervisor.Config.Daemon)
	debug.SetGCPercent(gcWhileRecovering)
	m, err := openMount(supervisor, flags, log)
	if err != nil {
		return err
	}
	defer m.close()
	debug.SetGCPercent(gcWhileServing)
	if supervisor.Config.Daemon {
		if err := logToFile(flags.StateDir); err != nil {
			log.WithError(err).Warn("could not open the log file")
		}
	}
	loud()
	device, root := m.directory.Stored()
	if err := supervisor.Serving(m.fs.Outlives(), device, root); err != nil {
		return err
	}
	go keeper.Watchdog(m.check, func(err error) { log.WithError(err).Warn("could not tell the service manager that all is well") })
	return m.wait(stop, supervisor.Yield)
}

// check returns when the server can reach its locks and inodes.
func (m *mounted) check() {
	m.store.Count()
	m.directory.Inodes.Size()
}
