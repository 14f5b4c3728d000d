package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"latchfs/fs/mountpoint"
)

// isDead reports whether err is the error of a mount whose server has died, or died during the request.
func isDead(err error) bool {
	return errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED)
}

// realDir returns the absolute path of dir without symbolic links. A dead mount at dir itself is not an error.
func realDir(dir string) (string, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(absolute))
	if err == nil {
		real := filepath.Join(parent, filepath.Base(absolute))
		info, err := os.Lstat(real)
		switch {
		case isDead(err):
			return real, nil
		case err == nil && info.Mode()&fs.ModeSymlink != 0:
			if real, err = filepath.EvalSymlinks(real); err != nil {
				return "", missing(dir, err)
			}
			info, err = os.Stat(real)
		}
		if err != nil {
			return "", missing(dir, err)
		}
		if !info.IsDir() {
			return "", coded{exitDir, fmt.Errorf("%s is not a directory", dir)}
		}
		return real, nil
	}
	return "", missing(dir, err)
}

func missing(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return coded{exitDir, fmt.Errorf("%s: no such directory", dir)}
	case isDead(err):
		return coded{exitMounted, fmt.Errorf("%s is inside a mount whose server has died", dir)}
	}
	return fmt.Errorf("%s: %w", dir, err)
}

// mountsAt returns the latchfs mounts at dir, of which programs see the last one. If there are none, inside is the
// latchfs mount that contains dir, or nil.
func mountsAt(dir string) (at []*mountinfo.Info, inside *mountinfo.Info, err error) {
	parents := func(info *mountinfo.Info) (skip, stop bool) {
		return !within(dir, info.Mountpoint), false
	}
	mounts, err := mountinfo.GetMounts(parents)
	if err != nil {
		return nil, nil, fmt.Errorf("mount table: %w", err)
	}
	var nearest *mountinfo.Info
	for _, info := range mounts {
		if info.Mountpoint == dir {
			if isLatchfs(info) {
				at = append(at, info)
			} else {
				at = nil // another mount covers them
			}
		} else if nearest == nil || len(info.Mountpoint) >= len(nearest.Mountpoint) {
			nearest = info
		}
	}
	if len(at) == 0 && nearest != nil && isLatchfs(nearest) {
		inside = nearest
	}
	return at, inside, nil
}

func isLatchfs(info *mountinfo.Info) bool { return info.FSType == "fuse."+mountpoint.Subtype }

// within reports whether path is dir or beneath it.
func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// deadMount reports whether a latchfs mount whose server has died is at dir.
func deadMount(dir string) bool {
	at, _, err := mountsAt(dir)
	if err != nil || len(at) == 0 {
		return false
	}
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(dir, &st) // unlike stat(2), the kernel never answers it from a cache
	}()
	select {
	case err := <-answer:
		return isDead(err)
	case <-time.After(5 * time.Second):
		return false // the server is stopped or stuck, but not dead
	}
}

// defaultStateDir returns the default state directory for a mount at dir. Each dir has its own.
func defaultStateDir(dir string) (string, error) {
	base := "/var/lib/latchfs"
	if os.Geteuid() != 0 {
		state := os.Getenv("XDG_STATE_HOME")
		if state == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return "", coded{exitState, fmt.Errorf("no default state directory: %w; use --state-dir", err)}
			}
			state = filepath.Join(home, ".local", "state")
		}
		base = filepath.Join(state, "latchfs")
	}
	// The name is readable, and the hash makes it unique for each path.
	sum := sha256.Sum256([]byte(dir))
	return filepath.Join(base, filepath.Base(dir)+"-"+hex.EncodeToString(sum[:6])), nil
}
