//go:build crashtest

package lockstore

import (
	"fmt"
	"os"
	"strconv"
)

// pausePoint is where in a compaction the process stops for good, so that its machine can be cut
// from its power there; LATCHFS_COMPACT_AT is how soon the journal is compacted.
var pausePoint = "compaction " + os.Getenv("LATCHFS_PAUSE")

func init() {
	if n, err := strconv.ParseInt(os.Getenv("LATCHFS_COMPACT_AT"), 10, 64); err == nil {
		compactAt = n
	}
}

func pauseAt(point string) {
	if point == pausePoint {
		_ = os.WriteFile("/dev/console", []byte("PAUSED "+point+"\n"), 0)
		fmt.Fprintln(os.Stderr, "paused:", point)
		select {}
	}
}
