// Command latchfs mounts a filesystem over a directory. The filesystem decides the locks that the lock files of the
// directory stand for. See README.md.
//
// Each subcommand has its own file. exit.go has the table of exit codes.
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
// The keeper does nothing while the server runs, so that little can make it crash. When the server dies, the keeper
// starts the next one. The new server reads from the tables what the kernel was told, takes the descriptors from the
// descriptor keeper and starts its own descriptor keeper. The kernel sends it the unanswered requests again. The
// descriptor keeper and the server end with the keeper.
//
// If the kernel cannot send requests again (before Linux 6.9), or a process may not take descriptors from another one,
// there is no descriptor keeper: the mount dies with its server, and the next server mounts again. For an upgrade, the
// keeper makes the server exit and starts the next one from the program on disk. After a crash, it starts the next one
// from the file of the program that runs, even if the path has been replaced.
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
		Short:         "A filesystem that knows which process holds a lock file, and whether it still runs",
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

// complain prints an error to standard error.
func complain(err error) { fmt.Fprintln(os.Stderr, "latchfs:", control.PrintableMessage(err.Error())) }

// oneDir checks the arguments of commands that take one directory.
var oneDir = checkArgs(cobra.ExactArgs(1))

// checkArgs returns an argument check whose error includes the usage of the command.
func checkArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; usage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// notNegative checks the value of a flag that is a number or a duration.
func notNegative[N int | time.Duration](flag string, n N) error {
	if n < 0 {
		return usageError{fmt.Errorf("--%s %v: must not be negative", flag, n)}
	}
	return nil
}
