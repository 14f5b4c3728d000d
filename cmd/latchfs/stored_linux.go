package main

import (
	"errors"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// A service manager with a descriptor store (FDSTORE in sd_notify(3)) keeps what the mount needs to
// outlive the keeper too. These are the descriptors' names there.
const (
	storedTables = "latchfs-tables"
	storedDevice = "latchfs-device"
	storedRoot   = "latchfs-root"
)

// hasStore says that a service manager listens. Whether it stores is not told.
func hasStore() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// takeStored returns what a service manager kept of the mount at dir, if that is still there:
// nothing otherwise.
func takeStored(dir string) (tables *os.File, stored *backing.Stored) {
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
	at, _, err := mountsAt(dir)
	poll := []unix.PollFd{{Fd: int32(stored.Device.Fd()), Events: unix.POLLIN}}
	_, pollErr := unix.Poll(poll, 0)
	if err != nil || len(at) == 0 || pollErr != nil || poll[0].Revents&unix.POLLERR != 0 {
		// It was unmounted meanwhile.
		unstore()
		return nil, nil
	}
	return tables, stored
}

// unstore has the service manager let go of it.
func unstore() {
	for _, name := range []string{storedTables, storedDevice, storedRoot} {
		_, _ = daemon.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name)
	}
}

// store has the service manager keep a descriptor.
func store(name string, file *os.File) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	manager := &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}
	return unix.Sendmsg(socket, []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(int(file.Fd())), manager, 0)
}

// storeAll has all of it kept, and says that the mount is usable.
func storeAll(tables *os.File, stored *backing.Stored) error {
	var err error
	if stored != nil {
		err = errors.Join(store(storedTables, tables), store(storedDevice, stored.Device), store(storedRoot, stored.Root))
	}
	_, notifyErr := daemon.SdNotify(false, daemon.SdNotifyReady)
	return errors.Join(err, notifyErr)
}

// sendMessage sends a message of keeper or server with descriptors.
func sendMessage(socket *os.File, text string, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	return unix.Sendmsg(int(socket.Fd()), []byte(text), rights, nil, 0)
}

// receiveMessage receives one; "" is that the other end is closed.
func receiveMessage(socket *os.File) (text string, files []*os.File, err error) {
	buffer, control := make([]byte, messageLimit), make([]byte, unix.CmsgSpace(2*4))
	n, controlled, _, _, err := unix.Recvmsg(int(socket.Fd()), buffer, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlled])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "stored"))
		}
	}
	return string(buffer[:n]), files, err
}
