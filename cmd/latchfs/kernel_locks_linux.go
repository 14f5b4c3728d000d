package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/control"
)

// kernelLocks are the flock(2) and fcntl(2) locks on this machine, by the file they are on.
type kernelLocks map[lockedFile][]control.KernelLock

type lockedFile struct {
	major, minor uint32
	inode        uint64
}

// readKernelLocks reads proc_locks(5). Where it cannot be read there are none.
func readKernelLocks() kernelLocks {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return nil
	}
	return parseKernelLocks(string(text))
}

func parseKernelLocks(text string) kernelLocks {
	locks := make(kernelLocks)
	for line := range strings.Lines(text) {
		// 1: POSIX  ADVISORY  WRITE 3548 08:01:1507 0 EOF, with -> after the number if it waits.
		fields := strings.Fields(line)
		waiting := len(fields) > 1 && fields[1] == "->"
		if waiting {
			fields = fields[1:]
		}
		if len(fields) < 6 {
			continue
		}
		l := control.KernelLock{Type: fields[1], Access: fields[3], Waiting: waiting}
		var file lockedFile
		if _, err := fmt.Sscan(fields[4], &l.PID); err != nil {
			continue
		}
		if _, err := fmt.Sscanf(fields[5], "%x:%x:%d", &file.major, &file.minor, &file.inode); err != nil {
			continue
		}
		if l.Type != "FLOCK" && l.Type != "POSIX" && l.Type != "OFDLCK" {
			continue // leases
		}
		locks[file] = append(locks[file], l)
	}
	return locks
}

// within says that there are any on the filesystem of dir.
func (k kernelLocks) within(dir fs.FileInfo) bool {
	st, ok := dir.Sys().(*syscall.Stat_t)
	for file := range k {
		if ok && file.major == unix.Major(st.Dev) && file.minor == unix.Minor(st.Dev) {
			return true
		}
	}
	return false
}

// on returns the locks on the file at path, with the commands of those that hold them. A flock(2) lock is one
// of an open file, which others may have inherited from the process that took it.
func (k kernelLocks) on(path string, info fs.FileInfo) []control.KernelLock {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || len(k) == 0 {
		return nil
	}
	locks := k[lockedFile{unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino}]
	for i := range locks {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", locks[i].PID)); err == nil {
			locks[i].Command = strings.TrimSuffix(string(comm), "\n")
		}
		if locks[i].Type != "POSIX" && !locks[i].Waiting {
			locks[i].OpenedBy = inheritors(path, locks[i].PID)
		}
	}
	return locks
}

// inheritors returns the processes that have the file at path open, if the process pid is none of them.
func inheritors(path string, pid int) (infos []control.ProcessInfo) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	host := bootid.NewHost()
	defer host.Close()
	for _, p := range host.OpenedBy(path) {
		if p.PID == pid {
			return nil
		}
		// latchfs's own have the file beneath open, which has the same path.
		if p.PID != os.Getpid() && !strings.HasPrefix(p.Command, "latchfs") {
			infos = append(infos, control.ProcessInfoOf(p))
		}
	}
	return infos
}
