package bootid

import (
	"time"

	"golang.org/x/sys/unix"
)

// macOS shows no id of the installation to sysctl(3); the machine stays unknown.
func readBoot() Boot {
	var b Boot
	if id, err := unix.Sysctl("kern.bootsessionuuid"); err == nil {
		b.ID = parseUUID(id)
	}
	if tv, err := unix.SysctlTimeval("kern.boottime"); err == nil {
		b.Time = time.Unix(tv.Unix())
	}
	return b
}
