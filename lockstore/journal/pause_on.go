//go:build crashtest

package journal

import (
	"fmt"
	"os"
	"strconv"
)

// pausePoint is the point of a compaction at which the process stops for good, so that a test can cut the power of
// its machine there. LATCHFS_COMPACT_AT sets compactAt.
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
