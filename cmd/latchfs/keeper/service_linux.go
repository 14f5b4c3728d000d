package keeper

import (
	"errors"
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// Names of descriptors in the descriptor store of a service manager (FDSTORE in sd_notify(3)). With these descriptors
// the mount outlives the keeper.
const (
	storedTables = "latchfs-tables"
	storedDevice = "latchfs-device"
	storedRoot   = "latchfs-root"
)

// hasStore reports whether a service manager listens. The manager may still refuse to store descriptors.
func hasStore() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// takeStored returns the descriptors that a service manager kept, if the mount still exists; nil otherwise.
func takeStored(isMounted func() bool) (tables *os.File, stored *backing.Stored) {
	stored = &backing.Stored{}
	for _, file := range activation.Files(true) {
		switch file.Name() {
		case storedTables:
			tables = file
		case storedDevice:
			stored.Device = file
		case storedRoot:
			stored.Root = file
		}
	}
	if tables == nil || stored.Device == nil || stored.Root == nil {
		return nil, nil
	}
	poll := []unix.PollFd{{Fd: int32(stored.Device.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(poll, 0)
	if err != nil || !isMounted() || poll[0].Revents&unix.POLLERR != 0 {
		// The directory was unmounted in the meantime.
		unstore()
		return nil, nil
	}
	return tables, stored
}

// unstore asks the service manager to close the stored descriptors.
func unstore() {
	for _, name := range []string{storedTables, storedDevice, storedRoot} {
		_, _ = daemon.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name)
	}
}

// store gives the service manager a descriptor to keep.
func store(name string, file *os.File) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	manager := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	return unix.Sendmsg(socket, []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(int(file.Fd())), manager, 0)
}

// storeAll gives the service manager the descriptors to keep, and notifies it that the mount is usable.
func storeAll(tables *os.File, stored *backing.Stored) error {
	var err error
	if stored != nil {
		err = errors.Join(store(storedTables, tables), store(storedDevice, stored.Device), store(storedRoot, stored.Root))
	}
	_, notifyErr := daemon.SdNotify(false, daemon.SdNotifyReady)
	return errors.Join(err, notifyErr)
}

// Watchdog calls check periodically and then notifies the service manager that this server is alive. If check hangs,
// the service manager restarts the mount with the stored descriptors. If a notification fails, Watchdog calls failed.
// It returns at once if the service manager has set no watchdog (WatchdogSec= in systemd.service(5)).
func Watchdog(check func(), failed func(error)) {
	limit, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || limit <= 0 {
		return
	}
	for range time.Tick(time.Duration(limit) * time.Microsecond / 3) {
		check()
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			failed(err)
		}
	}
}
