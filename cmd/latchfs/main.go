// Command latchfs mounts a directory over itself so that its lock files are locks
// the filesystem decides. See README.md.
//
// A subcommand is a file; exit.go has the table of exit codes.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
)

func main() {
	root := &cobra.Command{
		Use:           "latchfs",
		Short:         "A filesystem that knows who holds a lock file, and whether he still exists",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(mountCommand(), serveCommand(), upgradeCommand(), umountCommand(), lsCommand(), releaseCommand(), reclaimedCommand(), scanCommand(), versionCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "latchfs:", err)
		os.Exit(exitCode(err))
	}
}

// oneDir is the argument check of commands on a mount.
var oneDir = checkArgs(cobra.ExactArgs(1))

// checkArgs is an argument check that says how the command is used.
func checkArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// notNegative is the check of a flag that is a duration.
func notNegative(flag string, d time.Duration) error {
	if d < 0 {
		return usageError{fmt.Errorf("--%s %v: must not be negative", flag, d)}
	}
	return nil
}
