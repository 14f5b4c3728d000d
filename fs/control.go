//go:build linux

package fs

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// controlName is a directory at the root of the mount that is not listed: what latchfs
// says of itself. It covers an entry of that name beneath.
const controlName = ".latchfs"

// Node ids of the control directory and its files.
const (
	controlDir = 2 + iota
	controlLocks
	controlStatus
	controlReclaimed
	controlCtl
)

func isControl(id uint64) bool { return id >= controlDir && id < firstNodeID }

// controlFiles are the files in it, their modes, and how their content is made when one is
// opened.
var controlFiles = []struct {
	name    string
	id      uint64
	mode    uint32
	content func(*control) any
}{
	{"locks.json", controlLocks, 0o444, (*control).locks},
	{"status", controlStatus, 0o444, func(c *control) any { return c.current() }},
	{"reclaimed", controlReclaimed, 0o444, (*control).reclaimed},
	// Who may do what is asked here: all may write.
	{"ctl", controlCtl, 0o222, nil},
}

// control serves the control directory.
type control struct {
	fs     *FS
	status Status
	files  handles[[]byte] // what a reader sees is what was so when it opened
}

// locks are those there are, after the last ones that were reaped.
func (c *control) locks() any {
	infos := []LockInfo{}
	for _, r := range c.fs.locks.Recent() {
		info := lockInfo(r.Lock, r.Judgment)
		info.ReclaimedAt = &r.Time
		infos = append(infos, info)
	}
	for _, e := range c.fs.locks.List() {
		info := lockInfo(e.Lock, e.Judgment)
		info.Open = e.Open
		infos = append(infos, info)
	}
	return infos
}

func (c *control) reclaimed() any {
	infos := []ReclaimedInfo{}
	for _, r := range c.fs.locks.Reclaimed() {
		infos = append(infos, ReclaimedInfo{r.Name, r.Generation, r.Time, string(r.Reason), r.Size, r.File})
	}
	return infos
}

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

func (c *control) current() Status {
	s := c.status
	s.ServerPID, s.AnchorPID, s.DiesWithServer = os.Getpid(), c.fs.Anchor(), c.fs.bound
	s.Passthrough = !c.fs.noPassthrough.Load()
	s.Inodes, s.Handles, s.Goroutines = c.fs.inodes.size(), c.fs.files.size(), runtime.NumGoroutine()
	return s
}

// refuse answers a request to change something by a node id that is none of the
// backing directory's.
func (c *control) refuse(id uint64) fuse.Status {
	if isControl(id) || id == fuse.FUSE_ROOT_ID {
		return fuse.EPERM
	}
	return status(unix.ESTALE)
}

func (c *control) attr(id uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: ^uint64(0) - id, Nlink: 1, Owner: fuse.Owner{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}}
	if id == controlDir {
		out.Mode, out.Nlink = unix.S_IFDIR|0o555, 2
	}
	for _, file := range controlFiles {
		if file.id == id {
			out.Mode = unix.S_IFREG | file.mode
		}
	}
}

func (c *control) getAttr(id uint64, out *fuse.AttrOut) fuse.Status {
	c.attr(id, &out.Attr)
	return fuse.OK
}

func (c *control) lookup(dir uint64, name string, out *fuse.EntryOut) fuse.Status {
	if dir == fuse.FUSE_ROOT_ID {
		out.NodeId = controlDir
	}
	for _, file := range controlFiles {
		if dir == controlDir && file.name == name {
			out.NodeId = file.id
		}
	}
	if out.NodeId == 0 {
		return fuse.ENOENT
	}
	c.attr(out.NodeId, &out.Attr)
	return fuse.OK
}

func (c *control) open(in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	for _, file := range controlFiles {
		if file.id != in.NodeId {
			continue
		}
		out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
		if file.content == nil {
			return fuse.OK
		}
		text, err := c.content(file.id)
		if err != nil {
			return status(err)
		}
		out.Fh = c.fs.nextHandle()
		c.files.add(out.Fh, text)
		return fuse.OK
	}
	return fuse.ENOENT
}

// content is what the file of a node id says now.
func (c *control) content(id uint64) ([]byte, error) {
	for _, file := range controlFiles {
		if file.id == id && file.content != nil {
			text, err := json.MarshalIndent(file.content(c), "", "  ")
			return append(text, '\n'), err
		}
	}
	return nil, unix.EBADF
}

func (c *control) read(in *fuse.ReadIn) (fuse.ReadResult, fuse.Status) {
	text := c.files.get(in.Fh)
	if text == nil {
		// Another server opened it: what is so now has to do.
		var err error
		if text, err = c.content(in.NodeId); err != nil {
			return nil, status(err)
		}
		c.files.add(in.Fh, text)
	}
	from := min(in.Offset, uint64(len(text)))
	to := min(from+uint64(in.Size), uint64(len(text)))
	return fuse.ReadResultData(text[from:to]), fuse.OK
}

func (c *control) readDir(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	for i, file := range controlFiles {
		if uint64(i) < in.Offset {
			continue
		}
		if !add(fuse.DirEntry{Name: file.name, Mode: unix.S_IFREG, Off: uint64(i + 1)}) {
			break
		}
	}
	return fuse.OK
}
