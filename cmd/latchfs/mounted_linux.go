package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/cmd/latchfs/keeper"
	latch "latchfs/fs"
	"latchfs/fs/backing"
	"latchfs/fs/control"
	"latchfs/fs/handover"
	"latchfs/fs/inotify"
	"latchfs/fs/lockname"
	"latchfs/fs/mountpoint"
	"latchfs/lockstore"
)

// mounted is a mounted directory and the parts of the server.
type mounted struct {
	dir       string
	flags     mountFlags
	log       *logrus.Logger
	metrics   *metrics
	host      *bootid.Host
	directory *backing.Directory
	store     *lockstore.Store
	fs        *latch.FS
	mount     *latch.Mount
}

// openMount recovers the locks, then mounts or takes over the mount of a server that has died.
func openMount(supervisor *keeper.Server, flags mountFlags, log *logrus.Logger) (_ *mounted, err error) {
	m := &mounted{dir: supervisor.Config.Dir, flags: flags, log: log, metrics: newMetrics(version), host: bootid.NewHost()}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	patterns, err := lockname.Parse(flags.LockPatterns)
	if err != nil {
		return nil, err
	}
	unix.Umask(0)
	raiseFileLimit()
	tables, err := handover.Open(supervisor.Tables)
	if err != nil {
		return nil, err
	}
	resumed := tables.Active()
	overDead, err := m.recover(supervisor, tables, patterns)
	if err != nil {
		return nil, err
	}
	listener, err := listenFor(flags.MetricsListen)
	if err != nil && !resumed { // the server before this one may still have the address
		return nil, err
	}
	m.mount, err = m.fs.Serve(mountpoint.Options{
		Dir: m.dir, OverDead: overDead, AllowOther: flags.AllowOther,
		Restrictions: mountpoint.Restrictions{NoSuid: flags.NoSuid, NoDev: flags.NoDev, NoExec: flags.NoExec, NoAtime: flags.NoAtime},
	}, log.IsLevelEnabled(logrus.TraceLevel))
	if err != nil {
		return nil, err
	}
	if flags.MetricsListen != "" {
		go m.metrics.serve(listener, flags.MetricsListen, resumed, log)
	}
	m.announce(resumed, overDead)
	return m, nil
}

// recover opens the directory, the store and the filesystem, with the state that a dead server has left in the tables.
// It reports whether the new mount will be over a dead one.
func (m *mounted) recover(supervisor *keeper.Server, tables *handover.Tables, patterns lockname.Patterns) (overDead bool, err error) {
	notifier := inotify.New(tables, m.log, func() (inotify.Unlinker, error) { return startNotifier(m.dir) })
	options := backing.Options{
		Tables: tables, Stored: supervisor.Stored, Keeper: supervisor.Config.Keeper, Storable: supervisor.Config.Storable,
		LockPatterns: patterns, Reaped: notifier.Announce, Log: m.log,
	}
	if options.Stored != nil {
		defer options.Stored.Device.Close()
		defer options.Stored.Root.Close()
	}
	resumed := tables.Active()
	switch {
	case !resumed:
		options.Backing, overDead, err = m.prepare(supervisor)
	case options.Stored != nil:
		err = m.claim(options.Stored.Root, supervisor)
	}
	if err != nil {
		return false, err
	}
	began := time.Now()
	var ahead *lockstore.Ahead
	if resumed {
		ahead = lockstore.ReadAhead(m.flags.StateDir) // reads while backing.Open takes over the tables
	}
	if m.directory, err = backing.Open(options); err != nil {
		return false, err
	}
	m.host.KeepPidfds(&tables.Watches)
	if m.store, err = openStore(m, attributesBy(patterns), ahead); err != nil {
		return false, err
	}
	m.fs, err = latch.New(m.directory, m.store, latch.Options{
		Dir: m.dir, NoHeartbeat: m.flags.NoHeartbeat, MaxWaitingPerUser: m.flags.MaxWaiting, NoPassthrough: m.flags.NoPassthrough,
		Callers: m.host, Notifier: notifier, Log: m.log, Metrics: m.metrics.text,
		SetLogLevel: func(level string) error { return setLogLevel(m.log, level) },
		Status: control.Status{
			Version: version, PID: supervisor.Config.Keeper, StateDir: m.flags.StateDir, BootID: m.host.Boot().ID,
			Started: time.Now(), LockPatterns: patterns.Strings(),
			StaleAfter: int(m.flags.StaleAfter.Seconds()), MaxHold: int(m.flags.MaxHold.Seconds()),
			ExitStatus: orUnknown(m.host.ExitSource()),
		},
	})
	if err != nil {
		return false, err
	}
	m.metrics.follow(m, time.Since(began))
	return overDead, nil
}

// announce logs the mount, and the limits of latchfs on this system.
func (m *mounted) announce(resumed, overDead bool) {
	boot, exits := m.host.Boot(), m.host.ExitSource()
	fields := logrus.Fields{
		"dir": m.dir, "state": m.flags.StateDir, "version": version, "boot_id": orUnknown(boot.ID),
		"machine_id": orUnknown(boot.MachineID), "pidfd": m.host.HasPidfd(), "replaced_dead_mount": overDead,
		"outlives_server": m.fs.Outlives(),
	}
	if resumed {
		m.log.WithFields(fields).Info("resumed")
		return
	}
	m.log.WithFields(fields).WithField("exit_status", orUnknown(exits)).Info("mounted")
	if !m.directory.LockFiles().Local() {
		m.log.WithField("dir", m.dir).Warn("other machines may write to this filesystem. latchfs cannot see their processes " +
			"or a latchfs that runs there: mount the directory with latchfs on one machine only")
	}
	if exits == "" {
		m.log.Info("the kernel does not report the exit status of a process after its parent has waited for it, so every holder that " +
			"has ended counts as gone. Linux 6.15 reports it; before that, root needs CAP_NET_ADMIN")
	}
}

// prepare checks the mount point and the state directory, opens the backing directory and claims it.
func (m *mounted) prepare(supervisor *keeper.Server) (backing *os.File, overDead bool, err error) {
	dir, log := m.dir, m.log
	at, inside, err := mountsAt(dir)
	if err != nil {
		return nil, false, err
	}
	overDead = len(at) > 0 && deadMount(dir)
	switch {
	case len(at) > 0 && !overDead:
		return nil, false, coded{exitMounted, fmt.Errorf("%s is mounted already", dir)}
	case inside != nil:
		return nil, false, coded{exitMounted, fmt.Errorf("%s is inside the latchfs mount at %s", dir, inside.Mountpoint)}
	}
	if err := checkStateDir(dir, m.flags.StateDir); err != nil {
		return nil, false, err
	}
	if err := mountpoint.Probe(); errors.Is(err, mountpoint.ErrNoFUSE) || errors.Is(err, mountpoint.ErrNoHelper) {
		return nil, false, coded{exitNoFUSE, err}
	} else if err != nil {
		return nil, false, err
	}
	if m.host.Blind() {
		log.Warn("/proc belongs to another pid namespace, so no process can be identified and every lock is unknown. Mount a /proc for this pid namespace")
	}
	if backing, err = openBacking(dir, overDead); err != nil {
		return nil, false, err
	}
	if err := m.claim(backing, supervisor); err != nil {
		return nil, false, err
	}
	m.warnOfUsers(supervisor.Config.Keeper)
	return backing, overDead, nil
}

// claim claims the backing directory for the keeper.
func (m *mounted) claim(backing *os.File, supervisor *keeper.Server) error {
	if supervisor.Config.Claim == 0 {
		return nil // the keeper has an older version, without claims
	}
	claimed, err := claim(backing, supervisor.Config.Claim, m.log.WithField("dir", m.dir))
	if err != nil || claimed == nil {
		return err
	}
	defer claimed.Close()
	return supervisor.Claim(claimed)
}

// raiseFileLimit raises the limit of descriptors to that of the system, because the server has one for each inode that
// the kernel knows. The Go runtime has already raised the soft limit to the hard one; root may raise that too.
func raiseFileLimit() {
	text, err := os.ReadFile("/proc/sys/fs/nr_open")
	if err != nil {
		return
	}
	most, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return
	}
	// Only root may raise the hard limit; other users keep theirs.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: most})
}

func orUnknown(id string) string {
	if id == "" {
		return "unknown"
	}
	return id
}

// openBacking opens the backing directory, which the mount will cover.
func openBacking(dir string, overDead bool) (*os.File, error) {
	if os.Geteuid() != 0 {
		// fusermount3 checks this too, but its message is less clear.
		if err := unix.Access(dir, unix.W_OK); err != nil && !isDead(err) {
			return nil, fmt.Errorf("mount over %s: %w", dir, err)
		}
	}
	if overDead && os.Geteuid() == 0 {
		return mountpoint.OpenBeneathDead(dir, deadMount)
	}
	for overDead && deadMount(dir) {
		// fusermount3 can only unmount the dead mount, so programs see the backing directory for a moment.
		if err := mountpoint.Unmount(dir, true); err != nil {
			return nil, err
		}
	}
	return os.Open(dir)
}

// checkStateDir creates the state directory. It returns an error for a directory that the mount would cover, or that
// other users can change.
func checkStateDir(dir, stateDir string) error {
	if within(stateDir, dir) {
		return coded{exitState, fmt.Errorf("the state directory %s is inside %s; use --state-dir", stateDir, dir)}
	}
	if err := lockstore.CheckStateDir(stateDir); err != nil {
		return coded{exitState, fmt.Errorf("state directory: %w", err)}
	}
	real, err := filepath.EvalSymlinks(stateDir)
	if err != nil {
		return coded{exitState, fmt.Errorf("state directory: %w", err)}
	}
	if within(real, dir) {
		return coded{exitState, fmt.Errorf("the state directory %s is inside %s; use --state-dir", stateDir, dir)}
	}
	return nil
}

// openStore opens the store in the state directory. If the directory is in use, it waits for up to two seconds, in case
// a latchfs that was just unmounted is releasing it.
func openStore(m *mounted, attributes func(name string) lockstore.Attributes, ahead *lockstore.Ahead) (*lockstore.Store, error) {
	deadline := time.Now().Add(2 * time.Second)
	for {
		shown := newProgress(os.Stderr, "locks recovered")
		store, err := lockstore.Open(lockstore.Options{
			Progress: shown.at,
			StateDir: m.flags.StateDir, System: m.host, Files: m.directory.LockFiles(),
			StaleAfter: m.flags.StaleAfter, MaxHold: m.flags.MaxHold, Log: m.log, Observe: m.metrics.happened,
			MaxPerUser: m.flags.MaxPerUser, Owner: uint32(os.Geteuid()),
			Predecessor: lockstore.Predecessor{
				Ahead: ahead, Open: m.directory.OpenLocks(), Making: m.directory.LocksInTheMaking(),
				Renames: m.directory.UnfinishedRenames(),
			},
			Attributes: attributes,
		})
		shown.end()
		switch {
		case err == nil:
			return store, nil
		case errors.Is(err, lockstore.ErrNewerFormat):
			return nil, err
		case !errors.Is(err, lockstore.ErrInUse) || time.Now().After(deadline):
			return nil, coded{exitState, fmt.Errorf("state directory: %w", err)}
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// warnOfUsers logs the processes that have the directory open and will continue to use the backing directory.
func (m *mounted) warnOfUsers(keeper int) {
	for _, p := range m.host.UsersOf(m.dir) {
		if p.PID == keeper {
			continue // it has the claim open
		}
		m.log.WithFields(logrus.Fields{"dir": m.dir, "pid": p.PID, "command": p.Command}).
			Warn("this process has the directory open from before the mount and continues to use the backing directory, so latchfs does not see its locks. Make it reopen the directory")
	}
}

// wait returns when the mount is gone. The first signal unmounts; the second one returns without waiting.
func (m *mounted) wait(stop <-chan os.Signal, yield <-chan struct{}) error {
	for asked := false; ; {
		select {
		case <-m.mount.Done():
			m.log.WithField("dir", m.dir).Info("unmounted")
			return nil
		case <-yield:
			m.log.WithField("dir", m.dir).Info("making way for another server")
			// The kernel sends the unanswered requests to the next server.
			os.Exit(keeper.ExitHandedOver)
		case sig := <-stop:
			if asked {
				return coded{exitBusy, fmt.Errorf("%v: left %s while it is in use", sig, m.dir)}
			}
			asked = true
			m.log.WithFields(logrus.Fields{"dir": m.dir, "signal": sig.String()}).Info("unmounting")
			m.unmount()
		}
	}
}

// unmount unmounts, lazily if the mount is busy.
func (m *mounted) unmount() {
	err := m.mount.Unmount(false)
	if err == nil {
		return
	}
	for _, p := range m.host.UsersOf(m.dir) {
		if p.PID == m.directory.DescriptorKeeper() || p.PID == os.Getppid() {
			continue // a process of latchfs
		}
		m.log.WithFields(logrus.Fields{"dir": m.dir, "pid": p.PID, "command": p.Command}).Warn("this process keeps the mount busy")
	}
	m.log.WithError(err).WithField("dir", m.dir).Warn("the mount is busy, so it was detached; it ends when the last process has left it")
	if err := m.mount.Unmount(true); err != nil {
		m.log.WithError(err).WithField("dir", m.dir).Error("could not unmount")
	}
}

func (m *mounted) close() {
	if m.store != nil {
		if err := m.store.Close(); err != nil {
			m.log.WithError(err).Warn("could not close the journal")
		}
	}
	if m.directory != nil {
		m.directory.Close()
	}
	m.host.Close()
}
