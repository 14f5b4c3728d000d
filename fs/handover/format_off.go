//go:build linux && !formattest

package handover

// versionsAhead is added to the format version of the tables.
const versionsAhead = 0
