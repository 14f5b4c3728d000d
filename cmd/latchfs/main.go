// Command latchfs mounts a directory over itself so that its lock files are locks
// the filesystem decides. See README.md.
//
// A subcommand is a file; exit.go has the table of exit codes.
//
// # Keeper, server, descriptor keeper
//
// Three processes make a mount that outlives its server:
//
//	latchfs mount (keeper) ── starts, and starts again ──▶ latchfs serve (server)
//	   │ holds the tables                                    │ shares its descriptors with
//	   ▼                                                     ▼
//	memory: what the kernel was told                       descriptor keeper: sleeps, keeps /dev/fuse open
//
// The keeper does nothing while the server runs, so that it has no reason to die. When the server
// dies, the next one finds in the tables what the kernel was told, takes the descriptors from the
// descriptor keeper, has an descriptor keeper of its own from then on, and the kernel sends it again what was not
// answered. The descriptor keeper and the server end with the keeper.
//
// Where the kernel cannot send requests again (before Linux 6.9), or no descriptor can be taken
// from another process, there is no descriptor keeper: the mount dies with its server, and the keeper has the
// next one mount anew. An upgrade is the death of a server that was asked for; the next one is
// started from what is on disk. Otherwise it is started from the file the running one was, whatever
// became of its path.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"latchfs/fs/control"
)

func main() {
	root := &cobra.Command{
		Use:           "latchfs",
		Short:         "A filesystem that knows who holds a lock file, and whether he still exists",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(mountCommand(), serveCommand(), notifierCommand(), upgradeCommand(), umountCommand(), checkCommand(), lsCommand(), whyCommand(), eventsCommand(), lockCommand(), releaseCommand(), reclaimedCommand(), scanCommand(), versionCommand())
	root.AddCommand(pages(root)...)
	var err error
	helper, args := isMountHelper(), os.Args[1:]
	if helper {
		args, err = helperArgs(args)
		root.SetArgs(args)
	}
	if err == nil && (!helper || args != nil) {
		err = root.Execute()
	}
	if err != nil {
		if !errors.As(err, &silent{}) {
			complain(err)
		}
		os.Exit(exitCode(err, helper))
	}
}

// complain says on standard error what is wrong.
func complain(err error) { fmt.Fprintln(os.Stderr, "latchfs:", control.PrintableMessage(err.Error())) }

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

// notNegative is the check of a flag that is a number or a duration.
func notNegative[N int | time.Duration](flag string, n N) error {
	if n < 0 {
		return usageError{fmt.Errorf("--%s %v: must not be negative", flag, n)}
	}
	return nil
}
