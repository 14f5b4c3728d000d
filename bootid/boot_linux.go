package bootid

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// readBoot reads boot_id (random(4)), machine-id(5) and btime (proc_stat(5)).
func readBoot() Boot {
	var b Boot
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		b.ID = parseUUID(string(text))
	}
	if text, err := os.ReadFile("/etc/machine-id"); err == nil {
		b.MachineID = parseHexID(string(text))
	}
	if text, err := os.ReadFile("/proc/stat"); err == nil {
		b.Time = parseBootTime(string(text))
	}
	return b
}

// parseBootTime returns the time in the btime line of /proc/stat, or the zero time if there is no such line.
func parseBootTime(stat string) time.Time {
	for line := range strings.Lines(stat) {
		text, ok := strings.CutPrefix(line, "btime ")
		if !ok {
			continue
		}
		if seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil && seconds > 0 {
			return time.Unix(seconds, 0)
		}
	}
	return time.Time{}
}
