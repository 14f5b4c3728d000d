//go:build !man

package main

import "github.com/spf13/cobra"

// pages returns no command: only make package builds with the tag man, which adds the command that writes manual pages.
func pages(*cobra.Command) []*cobra.Command { return nil }
