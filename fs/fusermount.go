//go:build linux

package fs

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
)

// fusermount mounts over o.Dir as an ordinary user and returns the descriptor of the connection (fusermount3(1)).
func fusermount(o MountOptions) (device int, err error) {
	program, err := helper()
	if err != nil {
		return -1, ErrNoHelper
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pair[0])
	remote := os.NewFile(uintptr(pair[1]), "fusermount3")
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	options := []string{"fsname=" + escape.Replace(o.Dir), "subtype=" + Subtype, "max_read=" + strconv.Itoa(channel.MaxWrite), "default_permissions"}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	for name := range o.Restrictions.each {
		options = append(options, name)
	}
	cmd := exec.Command(program, "-o", strings.Join(options, ","), "--", o.Dir)
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	said, err := cmd.CombinedOutput()
	remote.Close()
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(said)))
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 8), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	return fds[0], nil
}
