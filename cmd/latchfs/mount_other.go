//go:build !linux

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

var errLinuxOnly = coded{exitNoFUSE, errors.New("latchfs mounts on Linux only")}

func mountCommand() *cobra.Command {
	return &cobra.Command{Use: "mount DIR", Short: "Not available on this platform", Args: oneDir,
		RunE: func(*cobra.Command, []string) error { return errLinuxOnly }}
}

func umountCommand() *cobra.Command {
	return &cobra.Command{Use: "umount DIR", Short: "Not available on this platform", Args: oneDir,
		RunE: func(*cobra.Command, []string) error { return errLinuxOnly }}
}

func serveCommand() *cobra.Command {
	return &cobra.Command{Use: "serve DIR", Hidden: true, Args: oneDir,
		RunE: func(*cobra.Command, []string) error { return errLinuxOnly }}
}

func upgradeCommand() *cobra.Command {
	return &cobra.Command{Use: "upgrade DIR", Short: "Not available on this platform", Args: oneDir,
		RunE: func(*cobra.Command, []string) error { return errLinuxOnly }}
}

func isDead(error) bool { return false }

func scanCommand() *cobra.Command {
	return &cobra.Command{Use: "scan DIR", Short: "Not available on this platform", Args: oneDir,
		RunE: func(*cobra.Command, []string) error { return errLinuxOnly }}
}

func notifierCommand() *cobra.Command { return serveCommand() }
