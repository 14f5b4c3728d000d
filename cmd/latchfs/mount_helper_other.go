//go:build !linux

package main

func isMountHelper() bool                        { return false }
func helperArgs(args []string) ([]string, error) { return args, nil }
