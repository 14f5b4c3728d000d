package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"latchfs/cmd/latchfs/keeper"
	"latchfs/fs/lockname"
)

// mountFlags are the flags of latchfs mount.
type mountFlags struct {
	StateDir      string
	LockPatterns  []string
	StaleAfter    time.Duration
	MaxHold       time.Duration
	MaxPerUser    int
	MaxWaiting    int
	NoHeartbeat   bool
	NoPassthrough bool
	AllowOther    bool
	NoSuid, NoDev bool
	NoExec        bool
	NoAtime       bool
	LogLevel      string
	LogFormat     string
	MetricsListen string
	daemon        bool
}

func mountCommand() *cobra.Command {
	var flags mountFlags
	cmd := &cobra.Command{
		Use:   "mount DIR",
		Short: "Mount latchfs over DIR and serve it until it is unmounted",
		Long: `Mount latchfs over DIR and serve it in the foreground until SIGTERM, SIGINT or
latchfs umount. If a killed latchfs has left a dead mount at DIR, replace it.`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			if flags.daemon && !isDaemon() {
				return startDaemon(args[0], cmd.Flags())
			}
			if err := dropPrivileges(); err != nil {
				return err
			}
			return runMount(args[0], flags, cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.StateDir, "state-dir", "", "directory for the journal (default: one for each DIR in /var/lib/latchfs, or in $XDG_STATE_HOME/latchfs)")
	lockPatternVar(f, &flags.LockPatterns)
	f.DurationVar(&flags.StaleAfter, "stale-after", 30*time.Minute, "age at which a lock with an unknown holder becomes stale; 0 means never")
	f.DurationVar(&flags.MaxHold, "max-hold", 0, "age at which a lock becomes stale even if its holder lives; 0 means never")
	f.IntVar(&flags.MaxPerUser, "max-locks-per-user", 10_000, "limit of locks for each user other than root and you (EDQUOT); 0 means no limit")
	f.IntVar(&flags.MaxWaiting, "max-waiting-per-user", 1000, "limit of readers of .latchfs/wait, and of .latchfs/events, for each user other than root and you (EDQUOT); 0 means no limit")
	f.BoolVar(&flags.NoHeartbeat, "no-heartbeat", false, "show the real modification times of live locks to all processes, instead of the present time")
	f.BoolVar(&flags.NoPassthrough, "no-passthrough", false, "send reads and writes of ordinary files through latchfs, even if the kernel could bypass it")
	f.BoolVar(&flags.AllowOther, "allow-other", os.Geteuid() == 0, "give other users access, as the permissions of the files allow (default: true for root)")
	f.BoolVar(&flags.NoSuid, "nosuid", false, "ignore set-user-id, set-group-id and file capabilities, even if the backing filesystem allows them (mount(8))")
	f.BoolVar(&flags.NoDev, "nodev", false, "ignore device files, even if the backing filesystem allows them")
	f.BoolVar(&flags.NoExec, "noexec", false, "let no file be executed, even if the backing filesystem allows it")
	f.BoolVar(&flags.NoAtime, "noatime", false, "like the option of mount(8); the filesystem beneath keeps access times as it is mounted")
	f.StringVar(&flags.LogLevel, "log-level", "info", "trace (every request), debug, info, warning or error")
	f.StringVar(&flags.LogFormat, "log-format", "text", "text or json")
	f.StringVar(&flags.MetricsListen, "metrics-listen", "", "address to serve Prometheus metrics at, such as :9464; only for this machine unless it names a host (default: only in .latchfs/metrics)")
	f.BoolVar(&flags.daemon, "daemon", false, "return when the mount is usable, and serve it in the background")
	return cmd
}

// check returns an error if the value of a flag is invalid.
func (f mountFlags) check() error {
	if err := notNegative("stale-after", f.StaleAfter); err != nil {
		return err
	}
	if err := notNegative("max-hold", f.MaxHold); err != nil {
		return err
	}
	if err := notNegative("max-locks-per-user", f.MaxPerUser); err != nil {
		return err
	}
	if err := notNegative("max-waiting-per-user", f.MaxWaiting); err != nil {
		return err
	}
	if _, err := lockname.Parse(f.LockPatterns); err != nil {
		return usageError{err}
	}
	return nil
}

// runMount runs the keeper of a mount until the mount has ended.
func runMount(dir string, flags mountFlags, out io.Writer) error {
	dir, err := realDir(dir)
	if err != nil {
		return err
	}
	if flags.StateDir == "" {
		flags.StateDir, err = defaultStateDir(dir)
	} else {
		flags.StateDir, err = filepath.Abs(flags.StateDir)
	}
	if err != nil {
		return err
	}
	log, err := newLog(out, flags.LogLevel, flags.LogFormat)
	if err != nil {
		return err
	}
	passed, err := json.Marshal(flags)
	if err != nil {
		return err
	}
	// The keeper must not keep the directory busy.
	if err := os.Chdir("/"); err != nil {
		return err
	}
	loud := hush(log, isDaemon())
	k := keeper.Keeper{
		Config:  keeper.Config{Dir: dir, Flags: passed, Keeper: os.Getpid(), Claim: newClaim(), Daemon: isDaemon()},
		Codes:   keeper.Codes{Format: exitFormat, Busy: exitBusy},
		Log:     log,
		Command: []string{"serve", dir},
		IsMounted: func() bool {
			at, _, err := mountsAt(dir)
			return err == nil && len(at) > 0
		},
		Ready: func() {
			err := tellReady(flags.StateDir)
			loud()
			if err != nil {
				log.WithError(err).Warn("could not report that the mount is ready")
			}
		},
	}
	err = k.Run()
	if end, ok := errors.AsType[*keeper.EndError](err); ok && end.Explained {
		os.Exit(max(end.Code, exitFailure))
	} else if ok {
		return coded{end.Code, fmt.Errorf("left %s while it is in use", dir)}
	}
	return err
}
