//go:build race

package journal

// raceEnabled reports whether the tests run with the race detector, which makes them ten times slower.
const raceEnabled = true
