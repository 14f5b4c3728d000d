//go:build linux

package fs

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
	"latchfs/lockstore"
)

// A command is obeyed only if both the user who opened ctl and the one who writes may give it: a set-uid program writes
// to whatever its caller made its standard error.

// command is what is written to ctl: a word and what it is about.
//
//	release PATH, force-release PATH	a lock, by its path in the mount
//	compact	the journal
//	log-level LEVEL	as --log-level
type command struct{ word, argument string }

// parseCommand returns EINVAL for what is none.
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

// write carries out a command.
func (c *control) write(in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	text := bytes.Join(data, nil)
	command, err := parseCommand(text)
	if err != nil || in.NodeId != controlCtl {
		return 0, fuse.EINVAL
	}
	who := c.fs.caller(&in.InHeader)()
	err = c.carryOut(command, in, who)
	if errors.Is(err, lockstore.ErrNotOperator) {
		c.fs.log.WithFields(logrus.Fields{"caller": who.String(), "uid": in.Uid, "opener": opener(in.Fh), "command": command.word, "argument": command.argument}).
			Warn("refused: not an operator")
	}
	if err != nil {
		return 0, status(err)
	}
	return uint32(len(text)), fuse.OK
}

func (c *control) carryOut(command command, in *fuse.WriteIn, who bootid.Process) error {
	owner := uint32(os.Geteuid())
	operator := (in.Uid == 0 || in.Uid == owner) && (opener(in.Fh) == 0 || opener(in.Fh) == owner)
	switch {
	case command.word == "release" || command.word == "force-release":
		if !c.fs.sees(c.fs.accessor(&in.InHeader), command.argument, namesIt) || !c.fs.sees(c.opened(&in.InHeader, in.Fh), command.argument, namesIt) {
			return lockstore.ErrNotOperator
		}
		i := c.fs.beginEntry(&in.InHeader, opControl, "")
		return i.once(func() error {
			return c.fs.locks.ReleaseFor(command.argument, lockstore.Operator{
				Process: who, UID: in.Uid, Opener: opener(in.Fh), Owner: owner, Force: command.word == "force-release",
			})
		}, func(err error) bool { return errors.Is(err, lockstore.ErrNoLock) })
	case !operator:
		return lockstore.ErrNotOperator
	case command.word == "compact":
		return c.fs.locks.Compact()
	default:
		if err := c.fs.setLogLevel(command.argument); err != nil {
			return unix.EINVAL
		}
		c.fs.log.WithFields(logrus.Fields{"level": command.argument, "operator": who.String()}).Info("the log level was changed")
		return nil
	}
}
