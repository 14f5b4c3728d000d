//go:build linux

package fs

import (
	"bytes"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// command is what is written to ctl: release PATH or force-release PATH, the path being that in the
// mount.
type command struct {
	name  string
	force bool
}

// parseCommand returns EINVAL for what is none.
func parseCommand(text []byte) (command, error) {
	word, name, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	if name == "" || word != "release" && word != "force-release" {
		return command{}, unix.EINVAL
	}
	return command{path.Clean(name), word == "force-release"}, nil
}

// write carries out a command.
func (c *control) write(in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	text := bytes.Join(data, nil)
	command, err := parseCommand(text)
	if err != nil || in.NodeId != controlCtl {
		return 0, fuse.EINVAL
	}
	i := c.fs.beginEntry(&in.InHeader, opControl, "")
	err = i.once(func() error {
		return c.fs.locks.ReleaseFor(command.name, lockstore.Operator{
			Process: c.fs.caller(&in.InHeader)(), UID: in.Uid, Owner: uint32(os.Geteuid()), Force: command.force,
		})
	}, func(err error) bool { return errors.Is(err, lockstore.ErrNoLock) })
	if err != nil {
		return 0, status(err)
	}
	return uint32(len(text)), fuse.OK
}
