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

// Percentages for debug.SetGCPercent. Recovery produces hardly any garbage, so it runs without collections.
const (
	gcWhileRecovering = -1 // never
	gcWhileServing    = 30
)

// serveCommand returns the command that a keeper starts as the server.
func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "serve DIR",
		Short:  "Serve a mount; latchfs mount starts this command",
		Hidden: true,
		Args:   oneDir,
		RunE:   func(*cobra.Command, []string) error { return runServe() },
	}
}

// runServe mounts, or takes over the mount of a server that has died, and serves the mount.
func runServe() error {
	// The keeper starts the program from a descriptor, so the kernel has named the process after the descriptor number.
	_ = os.WriteFile("/proc/self/comm", []byte("latchfs-server"), 0)
	var flags mountFlags
	supervisor, err := keeper.Connect()
	if err == nil {
		err = json.Unmarshal(supervisor.Config.Flags, &flags)
	}
	if err != nil {
		return usageError{fmt.Errorf("this command is for latchfs mount only: %w", err)}
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
	go keeper.Watchdog(m.check, func(err error) {
		log.WithError(err).Warn("could not send the watchdog notification to the service manager")
	})
	return m.wait(stop, supervisor.Yield)
}

// check takes the locks of the store and of the inodes. It returns only if neither is deadlocked.
func (m *mounted) check() {
	m.store.Count()
	m.directory.Inodes.Size()
}
