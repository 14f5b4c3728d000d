//go:build linux

package backing

import "time"

// Monotonic is a time since an arbitrary moment, in ns: a third of a time.Time, of which each inode has one.
type Monotonic int64

var processStart = time.Now()

func MonotonicNow() Monotonic { return Monotonic(time.Since(processStart)) }
