package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"latchfs/bootid"
	"latchfs/fs/control"
)

// kernelLocks are the flock(2) and fcntl(2) locks of this machine at one moment. It is not safe for concurrent use.
type kernelLocks struct {
	byFile  map[lockedFile][]control.KernelLock
	openers map[string][]int // pids by the path of a file that they have open; nil until openedBy needs it
}

type lockedFile struct {
	major, minor uint32
	inode        uint64
}

// readKernelLocks reads proc_locks(5). If that cannot be read, it returns no locks.
func readKernelLocks() *kernelLocks {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return &kernelLocks{}
	}
	return &kernelLocks{byFile: parseKernelLocks(string(text))}
}

func parseKernelLocks(text string) map[lockedFile][]control.KernelLock {
	locks := make(map[lockedFile][]control.KernelLock)
	for line := range strings.Lines(text) {
		// 1: POSIX  ADVISORY  WRITE 3548 08:01:1507 0 EOF; a waiting request has -> after the number.
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
			continue // a lease
		}
		locks[file] = append(locks[file], l)
	}
	return locks
}

// within reports whether any of the locks is on the filesystem of dir.
func (k *kernelLocks) within(dir fs.FileInfo) bool {
	st, ok := dir.Sys().(*syscall.Stat_t)
	for file := range k.byFile {
		if ok && file.major == unix.Major(st.Dev) && file.minor == unix.Minor(st.Dev) {
			return true
		}
	}
	return false
}

// on returns the locks on the file at path, with the commands of their holders. A flock(2) lock belongs to an open
// file, which other processes may have inherited from the process that took the lock.
func (k *kernelLocks) on(path string, info fs.FileInfo) []control.KernelLock {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	locks := k.byFile[lockedFile{unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino}]
	for i := range locks {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", locks[i].PID)); err == nil {
			locks[i].Command = strings.TrimSuffix(string(comm), "\n")
		}
		if locks[i].Type != "POSIX" && !locks[i].Waiting {
			locks[i].OpenedBy = k.inheritors(path, locks[i].PID)
		}
	}
	return locks
}

// inheritors returns the processes that have the file at path open. If the process pid, which took the lock, is one of
// them, it returns none.
func (k *kernelLocks) inheritors(path string, pid int) (infos []control.ProcessInfo) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	openers := k.openedBy(path)
	if len(openers) == 0 || slices.Contains(openers, pid) {
		return nil
	}
	host := bootid.NewHost()
	defer host.Close()
	for _, opener := range openers {
		// The processes of latchfs have the file in the backing directory open, which has the same path.
		if p, err := host.Process(opener); err == nil && p.PID != os.Getpid() && !strings.HasPrefix(p.Command, "latchfs") {
			infos = append(infos, control.ProcessInfoOf(p))
		}
	}
	return infos
}

// openedBy returns the pids of the processes that have the file at an absolute path open, as far as /proc shows them.
// The first call reads the links of all processes, without following them.
func (k *kernelLocks) openedBy(path string) []int {
	if k.openers == nil {
		k.openers = make(map[string][]int)
		links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
		for _, link := range links {
			var pid int
			target, err := os.Readlink(link)
			if err != nil { // the process has ended or closed the file
				continue
			}
			if _, err := fmt.Sscanf(link, "/proc/%d/", &pid); err == nil && !slices.Contains(k.openers[target], pid) {
				k.openers[target] = append(k.openers[target], pid)
			}
		}
	}
	return k.openers[path]
}
