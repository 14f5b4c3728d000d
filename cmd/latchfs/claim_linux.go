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

// A latchfs claims the directory it serves: it has a read lock (F_OFD_SETLK in fcntl(2)) on one byte of the
// directory beneath. Every latchfs of this machine sees the lock, whatever namespaces it is in, and no program
// is kept from anything. The keeper has the descriptor, so that a claim outlives servers and ends with the keeper.
// The number of the byte tells claims apart: its low bits are the keeper's pid, the others are random.

// claimPIDBits is how many bits a pid has (pid_max in proc_sys_kernel(5)).
const claimPIDBits = 22

// claimWait is how long mount waits for another latchfs to give the directory up: one that was just unmounted.
const claimWait = 5 * time.Second

// newClaim returns the byte that this process, a keeper, locks.
func newClaim() int64 { return rand.Int64N(1<<40)<<claimPIDBits | int64(os.Getpid()) }

// claim claims a directory until the file returned is closed everywhere. Nil is that the filesystem has no such locks.
func claim(beneath *os.File, at int64, log logrus.FieldLogger) (*os.File, error) {
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", beneath.Fd()), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	mine := unix.Flock_t{Type: unix.F_RDLCK, Start: at, Len: 1}
	var known int64
	var pid int
	var uid uint32
	for deadline := time.Now().Add(claimWait); ; {
		mine.Type = unix.F_RDLCK
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &mine); err != nil {
			log.WithError(err).Warn("whether another latchfs serves this directory cannot be known: it cannot be locked")
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
		info, err := file.Stat()
		if err != nil {
			return nil, err
		}
		if owner := info.Sys().(*syscall.Stat_t).Uid; pid != 0 && uid != 0 && uid != uint32(os.Geteuid()) && uid != owner {
			log.WithFields(logrus.Fields{"pid": pid, "uid": uid}).Warn("this process pretends to be a latchfs that serves the directory")
			return file, nil
		}
		if time.Now().After(deadline) {
			file.Close()
			who := fmt.Sprintf("process %d", pid)
			if pid == 0 {
				who = fmt.Sprintf("process %d of another user or pid namespace", other&(1<<claimPIDBits-1))
			}
			where := "at another path, in another mount namespace, or for processes that have used it since umount --lazy"
			if users := usersOfDetached(); len(users) > 0 {
				where = "for processes that have used it since umount --lazy: " + strings.Join(users, ", ")
			}
			return nil, coded{exitMounted, fmt.Errorf("another latchfs, %s, serves %s %s", who, beneath.Name(), where)}
		}
		// If both are just starting, one is to see none.
		mine.Type = unix.F_UNLCK
		if err := unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &mine); err != nil {
			return nil, err
		}
		time.Sleep(10*time.Millisecond + rand.N(20*time.Millisecond))
	}
}

// otherClaim returns the byte of a claim by another keeper; 0 if there is none.
func otherClaim(file *os.File, mine int64) int64 {
	for _, other := range []unix.Flock_t{{Start: 0, Len: mine}, {Start: mine + 1}} {
		other.Type = unix.F_WRLCK
		if unix.FcntlFlock(file.Fd(), unix.F_OFD_GETLK, &other) == nil && other.Type != unix.F_UNLCK {
			return other.Start
		}
	}
	return 0
}

// claimant returns the process that has a claim and its user, as far as /proc shows it to this process; pid 0 otherwise.
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

// usersOfDetached names the processes that use a FUSE mount which is at no path any more, as far as /proc shows it.
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
				command, _ := os.ReadFile(dir + "/comm") // it may have ended
				users = append(users, fmt.Sprintf("%s (%s)", filepath.Base(dir), strings.TrimSpace(string(command))))
			}
		}
		found <- users
	}()
	select {
	case users := <-found:
		return users
	case <-time.After(claimWait):
		return nil // a server does not answer
	}
}

// onDetached reports whether what a link of /proc leads to is on a FUSE mount that is not among mounts (proc_pid_mountinfo(5)).
func onDetached(link, mounts string) bool {
	var at unix.Statx_t
	var st unix.Statfs_t
	return unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &at) == nil && at.Mask&unix.STATX_MNT_ID != 0 &&
		!strings.Contains(mounts, fmt.Sprintf("\n%d ", at.Mnt_id)) &&
		unix.Statfs(link, &st) == nil && uint32(st.Type) == unix.FUSE_SUPER_MAGIC
}
