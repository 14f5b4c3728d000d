//go:build linux

package backing

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Retry repeats a system call that a signal interrupted: the Go runtime uses signals to preempt goroutines.
func Retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// ProcPath returns a path of the file of a descriptor, for system calls that take a path. The kernel jumps to the
// open file and resolves no name (proc_pid_fd(5)).
func ProcPath(fd int) string {
	return "/proc/self/fd/" + strconv.Itoa(fd)
}

// Reopen opens the file of an O_PATH descriptor.
func Reopen(fd, flags int) (opened int, err error) {
	err = Retry(func() error {
		opened, err = unix.Open(ProcPath(fd), flags&^unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		return err
	})
	return opened, err
}

// OpenPath opens an O_PATH descriptor of the entry name of dirfd. It does not follow a symbolic link.
func OpenPath(dirfd int, name string) (int, error) {
	return unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// OpenBeneath opens path, which may have several components. None of them may be a symbolic link or lead out of
// dirfd.
func OpenBeneath(dirfd int, path string, flags int) (int, error) {
	if len(path) >= unix.PathMax {
		// The kernel takes paths up to PATH_MAX only.
		end := strings.LastIndexByte(path[:unix.PathMax], '/')
		if end <= 0 {
			return -1, unix.ENAMETOOLONG
		}
		fd, err := OpenBeneath(dirfd, path[:end], unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return -1, err
		}
		defer unix.Close(fd)
		return OpenBeneath(fd, path[end+1:], flags)
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dirfd, path, &how)
		// EAGAIN: a concurrent rename made the result uncertain (openat2(2)).
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

func StatEntry(dirfd int, name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func StatFD(fd int) (st unix.Stat_t, err error) {
	err = unix.Fstatat(fd, "", &st, unix.AT_EMPTY_PATH)
	return st, err
}

// Readlink returns the text of the symbolic link name in dirfd, or of dirfd itself if name is empty.
func Readlink(dirfd int, name string) ([]byte, error) {
	for size := 256; ; size *= 2 {
		target := make([]byte, size)
		length, err := unix.Readlinkat(dirfd, name, target)
		if err != nil {
			return nil, err
		}
		if length < size {
			return target[:length], nil
		}
	}
}
