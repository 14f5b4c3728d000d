package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// How much garbage there may be, in percent of what is in use, before it is collected. What recovery makes is hardly
// garbage, and then a lock takes about half a KiB.
const (
	gcWhileRecovering = -1 // never
	gcWhileServing    = 30
)

// serveCommand is what a keeper starts.
func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "serve DIR",
		Short:  "Answer the requests of a mount; started by latchfs mount",
		Hidden: true,
		Args:   oneDir,
		RunE:   func(*cobra.Command, []string) error { return runServe() },
	}
}

// runServe mounts, or goes on with the mount of a server that has died, and serves it.
func runServe() error {
	// Started from a descriptor it would be called by its number.
	_ = os.WriteFile("/proc/self/comm", []byte("latchfs-server"), 0)
	unix.Close(programFD)
	unix.CloseOnExec(tablesFD)
	unix.CloseOnExec(keeperFD)
	keeper, tables := os.NewFile(keeperFD, "keeper"), os.NewFile(tablesFD, "tables")
	message := make([]byte, messageLimit)
	n, err := keeper.Read(message)
	var config serverConfig
	if err == nil {
		err = json.Unmarshal(message[:n], &config)
	}
	if err != nil {
		return usageError{fmt.Errorf("latchfs mount starts this: %w", err)}
	}
	// It can be replaced, the keeper cannot.
	_ = os.WriteFile(oomScore, []byte(config.OOMScore), 0)
	stop, yield := make(chan os.Signal, 4), make(chan struct{}, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP)
	go followKeeper(keeper, yield)

	log, err := newLog(os.Stderr, config.Flags.LogLevel, config.Flags.LogFormat)
	if err != nil {
		return err
	}
	loud := hush(log, config.Daemon)
	// Its memory is mostly the locks there are, and they stay.
	debug.SetGCPercent(gcWhileRecovering)
	m, err := openMount(config, tables, keeper, log)
	if err != nil {
		return err
	}
	defer m.close()
	debug.SetGCPercent(gcWhileServing)
	if config.Daemon {
		if err := logToFile(config.Flags.StateDir); err != nil {
			log.WithError(err).Warn("could not open the log file")
		}
	}
	loud()
	serving := messageServing
	if !m.fs.Outlives() {
		serving = messageBound
	}
	var toStore []int
	if config.Storable {
		device, root := m.directory.Stored()
		toStore = []int{device, root}
	}
	if err := sendMessage(keeper, serving, toStore...); err != nil {
		return fmt.Errorf("tell the keeper: %w", err)
	}
	go m.watchdog()
	return m.wait(stop, yield)
}

// followKeeper waits for what the keeper says. Without one nobody would start another server, and
// the descriptor keeper ends with it: so does this server.
func followKeeper(keeper *os.File, yield chan<- struct{}) {
	message := make([]byte, messageLimit)
	for {
		n, err := keeper.Read(message)
		if err != nil || n == 0 {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		if string(message[:n]) == messageYield {
			yield <- struct{}{}
		}
	}
}
