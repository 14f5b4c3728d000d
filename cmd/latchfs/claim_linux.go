package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A latchfs claims the directory it serves with a read lock (F_OFD_SETLK in fcntl(2)) on one byte of the backing
// directory. Every latchfs of this machine sees the lock, in whatever namespaces it runs, and a read lock stops no
// program from using the directory. The keeper holds the descriptor, so a claim outlives servers and ends with the
// keeper. The offset of the byte identifies the claim: its low bits are the keeper's pid, the others are random.

// claimPIDBits is the number of bits of a pid (pid_max in proc_sys_kernel(5)).
const claimPIDBits = 22

// claimWait is how long mount waits for another latchfs, one that was just unmounted, to give up the directory.
const claimWait = 5 * time.Second

// newClaim returns the offset of the byte that this process, a keeper, locks.
func newClaim() int64 { return rand.Int64N(1<<40)<<claimPIDBits | int64(os.Getpid()) }

// claim claims a directory until the returned file is closed in every process that has it. It returns nil if the
// filesystem does not support such locks.
func claim(backing *os.File, at int64, log logrus.FieldLogger) (_ *os.File, err error) {
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", backing.Fd()), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	var known int64
	var pid int
	var uid uint32
	for deadline := time.Now().Add(claimWait); ; {
		if err := lockByte(file, at, unix.F_RDLCK); err != nil {
			log.WithError(err).Warn("this directory cannot be locked, so latchfs cannot tell whether another latchfs serves it")
			return nil, file.Close()
		}
		other := otherClaim(file, at)
		if other == 0 {
			return file, nil
		}
		if other != known {
			known = other
			pid, uid = claimant(other)
		}
		if pid != 0 && uid != 0 && uid != uint32(os.Geteuid()) && uid != owner {
			log.WithFields(logrus.Fields{"pid": pid, "uid": uid}).Warn("this process pretends to be a latchfs that serves the directory")
			return file, nil
		}
		if time.Now().After(deadline) {
			return nil, claimedElsewhere(backing.Name(), other, pid)
		}
		// Two that start at the same time both give way, for a random time, so that one of them then sees no other.
		if err := lockByte(file, at, unix.F_UNLCK); err != nil {
			return nil, err
		}
		time.Sleep(10*time.Millisecond + rand.N(20*time.Millisecond))
	}
}

// lockByte sets the lock of the open file on one byte: F_RDLCK or F_UNLCK.
func lockByte(file *os.File, at int64, kind int16) error {
	return unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: at, Len: 1})
}

// claimedElsewhere returns the error for a directory that another latchfs serves. The pid is 0 if /proc does not show
// the process.
func claimedElsewhere(dir string, claim int64, pid int) error {
	process := fmt.Sprintf("process %d", pid)
	if pid == 0 {
		process = fmt.Sprintf("process %d of another user or pid namespace", claim&(1<<claimPIDBits-1))
	}
	where := "at another path, in another mount namespace, or for processes that have used it since umount --lazy"
	if users := usersOfDetached(); len(users) > 0 {
		where = "for processes that have used it since umount --lazy: " + strings.Join(users, ", ")
	}
	return coded{exitMounted, fmt.Errorf("another latchfs, %s, serves %s %s", process, dir, where)}
}

// otherClaim returns the offset of a claim by another keeper, or 0 if there is none.
func otherClaim(file *os.File, mine int64) int64 {
	for _, other := range []unix.Flock_t{{Start: 0, Len: mine}, {Start: mine + 1}} {
		other.Type = unix.F_WRLCK
		if unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &other) == nil && other.Type != unix.F_UNLCK {
			return other.Start
		}
	}
	return 0
}

// claimant returns the process that holds a claim, and its user. The pid is 0 if /proc does not show the process to
// this one.
func claimant(at int64) (pid int, uid uint32) {
	infos, _ := filepath.Glob("/proc/[0-9]*/fdinfo/*") // the pattern is well-formed
	for _, path := range infos {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), fmt.Sprintf(" %d %d\n", at, at)) {
			continue
		}
		var st unix.Stat_t
		if _, err := fmt.Sscanf(path, "/proc/%d/", &pid); err == nil && unix.Stat(fmt.Sprintf("/proc/%d", pid), &st) == nil {
			return pid, st.Uid
		}
	}
	return 0, 0
}

// usersOfDetached names the processes that use a FUSE mount that has been detached from every path, as far as /proc
// shows them.
func usersOfDetached() []string {
	found := make(chan []string, 1)
	go func() {
		var users []string
		dirs, _ := filepath.Glob("/proc/[0-9]*") // the patterns are well-formed
		for _, dir := range dirs {
			mounts, err := os.ReadFile(dir + "/mountinfo")
			if err != nil {
				continue
			}
			links, _ := filepath.Glob(dir + "/fd/*")
			if slices.ContainsFunc(append(links, dir+"/cwd"), func(link string) bool { return onDetached(link, "\n"+string(mounts)) }) {
				command, _ := os.ReadFile(dir + "/comm") // empty if the process has ended
				users = append(users, fmt.Sprintf("%s (%s)", filepath.Base(dir), strings.TrimSpace(string(command))))
			}
		}
		found <- users
	}()
	select {
	case users := <-found:
		return users
	case <-time.After(claimWait):
		return nil // the server of such a mount does not answer
	}
}

// onDetached reports whether the target of a link in /proc is on a FUSE mount that mounts, the text of
// proc_pid_mountinfo(5), does not list.
func onDetached(link, mounts string) bool {
	var at unix.Statx_t
	var st unix.Statfs_t
	return unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &at) == nil && at.Mask&unix.STATX_MNT_ID != 0 &&
		!strings.Contains(mounts, fmt.Sprintf("\n%d ", at.Mnt_id)) &&
		unix.Statfs(link, &st) == nil && uint32(st.Type) == unix.FUSE_SUPER_MAGIC
}
