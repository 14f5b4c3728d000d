//go:build linux

package backing

import "time"

// Monotonic is a time since an arbitrary moment, in ns. It is a third of the size of a time.Time, and each inode has
// one.
type Monotonic int64

var processStart = time.Now()

func MonotonicNow() Monotonic { return Monotonic(time.Since(processStart)) }
