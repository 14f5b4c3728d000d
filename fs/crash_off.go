//go:build linux && !crashtest

package fs

func crashAt(operation, crashPoint) {}
