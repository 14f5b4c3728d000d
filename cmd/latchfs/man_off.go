//go:build !man

package main

import "github.com/spf13/cobra"

// pages are the manual pages: make package builds with them.
func pages(*cobra.Command) []*cobra.Command { return nil }
