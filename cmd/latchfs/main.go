// Command latchfs mounts a directory over itself so that its lock files are locks
// the filesystem decides. See README.md.
//
// A subcommand is a file; exit.go has the table of exit codes.
package main

import (
	"fmt"
	"os"

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
	root.AddCommand(mountCommand(), umountCommand(), lsCommand(), releaseCommand(), reclaimedCommand(), scanCommand(), versionCommand())
	if err := root.Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "latchfs:", err)
		os.Exit(exitCode(err))
	}
}

// oneDir is the argument check of commands on a mount.
func oneDir(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
	}
	return nil
}
