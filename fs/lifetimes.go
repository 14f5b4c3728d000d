//go:build linux

package fs

import "time"

// These durations are what integration tests wait for: how long a caller may be answered from what latchfs told the
// kernel, or remembered itself, before a change.
const (
	LockAttributesLifetime = createLifetime
	ACLSettledTime         = settledTime
	AccessLifetime         = time.Duration(sightLifetime)
)
