//go:build linux

package control

import (
	"bytes"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/access"
	"latchfs/lockstore"
)

// ctl accepts a command only if two users may give it: the one who opened the file and the one who writes. A set-uid
// program writes to whatever file its caller made its standard error.

// command is what is written to ctl: a word and its argument.
//
//	release PATH, force-release PATH	releases the lock at a path in the mount
//	compact	compacts the journal
//	log-level LEVEL	sets the level, as --log-level does
type command struct{ word, argument string }

// parseCommand returns EINVAL if a text is no command.
func parseCommand(text []byte) (command, error) {
	word, argument, _ := strings.Cut(strings.TrimSuffix(string(text), "\n"), " ")
	switch {
	case (word == "release" || word == "force-release") && argument != "":
		return command{word, path.Clean(argument)}, nil
	case word == "compact" && argument == "", word == "log-level" && argument != "":
		return command{word, argument}, nil
	}
	return command{}, unix.EINVAL
}

// Write carries out a command.
func (d *Dir) Write(in *fuse.WriteIn, data [][]byte) (uint32, error) {
	text := bytes.Join(data, nil)
	command, err := parseCommand(text)
	if err != nil || in.NodeId != ctlID {
		return 0, unix.EINVAL
	}
	caller := d.host.Caller(&in.InHeader)
	err = d.carryOut(command, in, caller)
	if errors.Is(err, lockstore.ErrNotOperator) {
		d.host.Log.WithFields(logrus.Fields{
			"caller": caller.String(), "uid": in.Uid, "opener": opener(in.Fh),
			"command": command.word, "argument": command.argument,
		}).Warn("refused: not an operator")
	}
	if err != nil {
		return 0, err
	}
	return uint32(len(text)), nil
}

func (d *Dir) carryOut(command command, in *fuse.WriteIn, caller bootid.Process) error {
	owner := uint32(os.Geteuid())
	operator := (in.Uid == 0 || in.Uid == owner) && (opener(in.Fh) == 0 || opener(in.Fh) == owner)
	switch {
	case command.word == "release" || command.word == "force-release":
		for _, user := range []access.User{d.host.Access.Caller(&in.InHeader), d.openedFor(&in.InHeader, in.Fh)} {
			if !d.host.Access.Names(user, command.argument) {
				return lockstore.ErrNotOperator
			}
		}
		return d.host.ReleaseOnce(&in.InHeader, func() error {
			return d.host.Locks.ReleaseFor(command.argument, lockstore.Operator{
				Process: caller, UID: in.Uid, Opener: opener(in.Fh), Owner: owner, Force: command.word == "force-release",
			})
		})
	case !operator:
		return lockstore.ErrNotOperator
	case command.word == "compact":
		return d.host.Locks.Compact()
	default:
		if err := d.host.SetLogLevel(command.argument); err != nil {
			return unix.EINVAL
		}
		d.host.Log.WithFields(logrus.Fields{"level": command.argument, "operator": caller.String()}).
			Info("the log level was changed")
		return nil
	}
}
