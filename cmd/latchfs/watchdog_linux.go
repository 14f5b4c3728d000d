package main

import (
	"os"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// watchdog tells a service manager that wants to know (WatchdogSec= in systemd.service(5)) that this server is
// alive, as long as it can get at its locks and inodes: one that hangs is replaced, with the descriptors that are
// stored. Without such a manager nothing is done.
func (m *mounted) watchdog() {
	limit, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || limit <= 0 {
		return
	}
	for range time.Tick(time.Duration(limit) * time.Microsecond / 3) {
		m.store.Count()
		m.fs.Inodes.Size()
		if _, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog); err != nil {
			m.log.WithError(err).Warn("could not tell the service manager that all is well")
		}
	}
}
