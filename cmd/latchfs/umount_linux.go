package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/control"
	"latchfs/fs/mountpoint"
)

// umountWait is how long umount waits for the daemon to end after it has unmounted.
const umountWait = 10 * time.Second

// A process that looks up a name in the mount, such as the inotify notifier, keeps the mount busy for a moment, so
// umount tries again.
const (
	umountTries = 10
	umountPause = 20 * time.Millisecond
)

func umountCommand() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount DIR and wait until its daemon has ended",
		Args:  oneDir,
		RunE:  func(_ *cobra.Command, args []string) error { return runUmount(args[0], lazy) },
	}
	cmd.Flags().BoolVarP(&lazy, "lazy", "z", false, "detach the mount now; programs that use it may finish")
	return cmd
}

func runUmount(dir string, lazy bool) error {
	dir, err := realDir(dir)
	if err != nil {
		return err
	}
	at, _, err := mountsAt(dir)
	if err != nil {
		return err
	}
	if len(at) == 0 {
		return coded{exitMounted, fmt.Errorf("%s is not a latchfs mount", dir)}
	}
	var daemon control.Status
	if err := readControl(dir, "status", &daemon); err != nil && !deadMount(dir) {
		return err
	}
	host := bootid.NewHost()
	defer host.Close()
	served, ended := daemon.PID != 0, make(chan struct{})
	if served {
		p, err := host.Process(daemon.PID)
		if err == nil {
			_, err = host.Watch(p, func() { close(ended) })
		}
		served = err == nil
	}
	// Mounts that could not be removed when they were replaced are beneath the last one.
	for _, mount := range at {
		if me := fmt.Sprintf("user_id=%d", os.Geteuid()); os.Geteuid() != 0 && !slices.Contains(strings.Split(mount.VFSOptions, ","), me) {
			return coded{exitForbidden, fmt.Errorf("%s: %w: another user has mounted it", dir, os.ErrPermission)}
		}
		err := mountpoint.Unmount(dir, lazy)
		for tries := 0; errors.Is(err, unix.EBUSY) && tries < umountTries; tries++ {
			time.Sleep(umountPause)
			err = mountpoint.Unmount(dir, lazy)
		}
		if errors.Is(err, unix.EBUSY) {
			return coded{exitBusy, fmt.Errorf("%s is in use%s; use --lazy to let them finish", dir, users(host, dir, daemon))}
		} else if errors.Is(err, os.ErrPermission) {
			return coded{exitForbidden, fmt.Errorf("%s: %w", dir, err)}
		} else if err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	if served && !lazy {
		select {
		case <-ended:
		case <-time.After(umountWait):
			return fmt.Errorf("%s is unmounted, but its daemon, process %d, has not ended", dir, daemon.PID)
		}
	}
	return nil
}

// users names the processes that keep dir busy.
func users(host *bootid.Host, dir string, daemon control.Status) string {
	var names []string
	for _, p := range host.UsersOf(dir) {
		if p.PID == daemon.PID || p.PID == daemon.ServerPID || p.PID == daemon.DescriptorKeeperPID {
			continue // latchfs has the backing directory open
		}
		names = append(names, fmt.Sprintf("%d (%s)", p.PID, p.Command))
	}
	if len(names) == 0 {
		return ""
	}
	return " by " + strings.Join(names, ", ")
}
