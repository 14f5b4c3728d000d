//go:build !mutation

package lockstore

// mutated says that a fault is put in on purpose.
func mutated(string) bool { return false }
