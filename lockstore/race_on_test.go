//go:build race

package lockstore

// raceEnabled reports whether the tests run with the race detector, which makes them ten times slower.
const raceEnabled = true
