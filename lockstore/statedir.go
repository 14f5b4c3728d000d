package lockstore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownerName is a file in the state directory. The process that owns the directory holds a flock(2) on it; it
// contains the pid of that process, for people.
const ownerName = "owner"

// CheckStateDir makes the state directory if it is missing. It returns an error if another user could make latchfs
// write elsewhere: if the directory belongs to another user, others may write to it, or it is or holds a symbolic
// link.
func CheckStateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if info, err := os.Lstat(dir); err == nil && info.Mode()&os.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link; name the directory itself", dir)
	}
	opened, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d, not to user %d of this mount", dir, owner, os.Geteuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is writable by others (mode %04o); use chmod go-w", dir, info.Mode().Perm())
	}
	entries, err := opened.ReadDir(-1)
	for _, entry := range entries {
		if entry.Type() == os.ModeSymlink {
			return fmt.Errorf("%s is a symbolic link; remove it", filepath.Join(dir, entry.Name()))
		}
	}
	return err
}

// ownDir makes the state directory if it is missing and takes it for this process until the returned file is
// closed. If another process has it, the error is ErrInUse and names that process.
func ownDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, ownerName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			pid, _ := os.ReadFile(path)
			return nil, fmt.Errorf("%s: %w by process %s", dir, ErrInUse, strings.TrimSpace(string(pid)))
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// The pid is a courtesy: a full disk must not keep the lock from being taken.
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return file, nil
}
