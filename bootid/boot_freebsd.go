package bootid

import (
	"encoding/hex"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// readBoot reads kern.boot_id, 16 random bytes that are opaque to sysctl(8) (sys/kern/kern_mib.c), and
// kern.hostuuid, the UUID of the installation.
func readBoot() Boot {
	var b Boot
	if raw, err := unix.SysctlRaw("kern.boot_id"); err == nil && len(raw) == 16 {
		h := hex.EncodeToString(raw)
		b.ID = parseUUID(strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-"))
	}
	if id, err := unix.Sysctl("kern.hostuuid"); err == nil {
		b.MachineID = parseHexID(strings.ReplaceAll(id, "-", ""))
	}
	if tv, err := unix.SysctlTimeval("kern.boottime"); err == nil {
		b.Time = time.Unix(tv.Unix())
	}
	return b
}
