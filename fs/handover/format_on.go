//go:build linux && formattest

package handover

// versionsAhead makes this a latchfs of another format version, for tests.
const versionsAhead = 1
