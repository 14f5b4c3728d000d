package bootid

import (
	"os"
	"strconv"
	"strings"
)

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
