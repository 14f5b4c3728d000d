package bootid

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenedBy implements [System]. Like HasOpen it touches none of the files. Those processes of latchfs
// that have the file beneath open are among them.
func (h *Host) OpenedBy(suffix string) []Process {
	var openers []Process
	// What cannot be listed is not seen.
	_ = h.eachProcess(func(pid int) bool {
		if hasOpen(pid, suffix) {
			if p, err := h.Process(pid); err == nil {
				openers = append(openers, p)
			}
		}
		return true
	})
	return openers
}

// UsersOf returns the processes other than this one that have their working
// directory, their root or an open file in dir, as far as /proc shows it to the
// caller. The links there are read and not followed, so nothing in dir is touched.
func (h *Host) UsersOf(dir string) []Process {
	var users []Process
	// What cannot be listed is not seen.
	_ = h.eachProcess(func(pid int) bool {
		if pid != os.Getpid() && uses(pid, dir) {
			if p, err := h.Process(pid); err == nil {
				users = append(users, p)
			}
		}
		return true
	})
	return users
}

func uses(pid int, dir string) bool {
	proc := "/proc/" + strconv.Itoa(pid)
	links := []string{proc + "/cwd", proc + "/root", proc + "/exe"}
	if open, err := os.ReadDir(proc + "/fd"); err == nil {
		for _, fd := range open {
			links = append(links, proc+"/fd/"+fd.Name())
		}
	}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err == nil && (target == dir || strings.HasPrefix(target, strings.TrimSuffix(dir, "/")+"/")) {
			return true
		}
	}
	return false
}

// OpenFile is a file on a device, by the numbers stat(2) gives.
type OpenFile struct{ Device, Inode uint64 }

// OpenFiles returns the files that processes have open, as far as /proc shows it to the
// caller. No filesystem is asked anything.
func (h *Host) OpenFiles() map[OpenFile]bool {
	files := make(map[OpenFile]bool)
	// What cannot be listed is not seen.
	_ = h.eachProcess(func(pid int) bool {
		dir := "/proc/" + strconv.Itoa(pid) + "/fd/"
		open, err := os.ReadDir(dir)
		if err != nil {
			return true
		}
		for _, fd := range open {
			var st unix.Statx_t
			if unix.Statx(unix.AT_FDCWD, dir+fd.Name(), unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st) == nil {
				files[OpenFile{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}] = true
			}
		}
		return true
	})
	return files
}
