//go:build linux

package integration

func hammer() {}
