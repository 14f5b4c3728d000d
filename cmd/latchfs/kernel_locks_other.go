//go:build !linux

package main

import (
	"io/fs"

	"latchfs/fs/control"
)

// kernelLocks is empty: only Linux lists the locks of the kernel.
type kernelLocks struct{}

func readKernelLocks() *kernelLocks { return &kernelLocks{} }

func (*kernelLocks) within(fs.FileInfo) bool { return false }

func (*kernelLocks) on(string, fs.FileInfo) []control.KernelLock { return nil }
