package bootid

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenedBy implements [System]. It reads the links in /proc and never touches the files. The result includes the
// processes of latchfs that have the backing file open.
func (h *Host) OpenedBy(suffix string) []Process {
	var openers []Process
	// If /proc cannot be listed, the result is empty.
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

// UsersOf returns the processes that use dir: the working directory, the root, the executable or an open file of the
// process is in dir. It leaves out the calling process and every process that /proc hides from it. It reads the links
// in /proc without following them, and so never touches dir.
func (h *Host) UsersOf(dir string) []Process {
	var users []Process
	// If /proc cannot be listed, the result is empty.
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

// uses reports whether a link of the process in /proc leads into dir.
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

// OpenFile identifies an open file by the device and inode numbers of stat(2).
type OpenFile struct{ Device, Inode uint64 }

// OpenFiles returns the files that processes have open. It leaves out files that /proc hides from the
// caller. It sends no request to any filesystem.
func (h *Host) OpenFiles() map[OpenFile]bool {
	files := make(map[OpenFile]bool)
	// If /proc cannot be listed, the result is empty.
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
