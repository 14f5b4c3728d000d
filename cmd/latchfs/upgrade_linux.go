package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"latchfs/fs/control"
)

// upgradeWait is how long upgrade waits for the new server.
const upgradeWait = 10 * time.Second

func upgradeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade DIR",
		Short: "Replace the server of the mount at DIR by the latchfs that is now on disk",
		Long: `Replace the server of the mount at DIR by the program that is now at the path from
which DIR was mounted. Programs that use the mount do not notice. SIGHUP to the
process of latchfs mount has the same effect.`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error { return runUpgrade(args[0], cmd.OutOrStdout()) },
	}
}

func runUpgrade(dir string, out io.Writer) error {
	dir, err := realDir(dir)
	if err != nil {
		return err
	}
	before, err := mountStatus(dir)
	if err != nil {
		return err
	}
	if before.DiesWithServer != "" {
		return fmt.Errorf("%s cannot be handed over to another server on this system; unmount it and mount it again", dir)
	}
	if err := unix.Kill(before.PID, unix.SIGHUP); errors.Is(err, os.ErrPermission) {
		return coded{exitForbidden, fmt.Errorf("%s: %w", dir, err)}
	} else if err != nil {
		return fmt.Errorf("process %d: %w", before.PID, err)
	}
	for deadline := time.Now().Add(upgradeWait); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if after, err := mountStatus(dir); err == nil && after.ServerPID != before.ServerPID {
			_, err := fmt.Fprintf(out, "%s is served by version %s, process %d\n", control.Printable(dir), after.Version, after.ServerPID)
			return err
		}
	}
	return fmt.Errorf("%s is still served by process %d; see the log", dir, before.ServerPID)
}

// mountStatus returns the status of the mount at dir.
func mountStatus(dir string) (status control.Status, err error) {
	at, _, err := mountsAt(dir)
	if err != nil {
		return status, err
	}
	if len(at) == 0 {
		return status, coded{exitMounted, fmt.Errorf("%s is not a latchfs mount", dir)}
	}
	return status, readControl(dir, "status", &status)
}
