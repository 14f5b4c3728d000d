package bootid

import (
	"time"

	"golang.org/x/sys/unix"
)

// readBoot leaves the machine unknown: sysctl(3) of macOS has no id of the installation.
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
