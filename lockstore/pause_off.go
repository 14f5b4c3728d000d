//go:build !crashtest

package lockstore

func pauseAt(string) {}
