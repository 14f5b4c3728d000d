//go:build linux && formattest

package handover

// versionsAhead makes a latchfs of another format, for the tests.
const versionsAhead = 1
