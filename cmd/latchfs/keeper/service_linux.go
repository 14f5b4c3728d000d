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

// A service manager with a descriptor store (FDSTORE in sd_notify(3)) keeps what the mount needs to
// outlive the keeper. These are the names of the descriptors in the store.
const (
	storedTables = "latchfs-tables"
	storedDevice = "latchfs-device"
	storedRoot   = "latchfs-root"
)

// hasStore reports whether a service manager listens. It does not tell whether it stores descriptors.
func hasStore() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// takeStored returns what a service manager kept of the mount, if the mount is still there; nil otherwise.
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
		// It was unmounted in the meantime.
		unstore()
		return nil, nil
	}
	return tables, stored
}

// unstore tells the service manager to close what it keeps.
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

// storeAll gives the service manager all that it is to keep, and tells it that the mount is usable.
func storeAll(tables *os.File, stored *backing.Stored) error {
	var err error
	if stored != nil {
		err = errors.Join(store(storedTables, tables), store(storedDevice, stored.Device), store(storedRoot, stored.Root))
	}
	_, notifyErr := daemon.SdNotify(false, daemon.SdNotifyReady)
	return errors.Join(err, notifyErr)
}

// Watchdog tells a service manager that asks for it (WatchdogSec= in systemd.service(5)) that this server is alive, after
// each call of check. A server whose check hangs is replaced, with the descriptors that are stored. Failed is called with
// the error if the manager cannot be told. Without such a manager Watchdog returns at once.
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
