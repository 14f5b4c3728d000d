//go:build linux && !formattest

package fs

const versionsAhead = 0
