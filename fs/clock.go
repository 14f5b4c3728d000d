//go:build linux

package fs

import "time"

// monotonic is a time since an arbitrary moment, in ns: a third of a time.Time, of which each inode has one.
type monotonic int64

var processStart = time.Now()

func monotonicNow() monotonic { return monotonic(time.Since(processStart)) }
