//go:build man

package main

import (
	_ "embed"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manual is what the page latchfs(8) has beside what --help says, in Markdown.
//
//go:embed package/manual.md
var manual string

// pages is a command that writes a manual page for each other.
func pages(root *cobra.Command) []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIR",
		Hidden: true,
		Args:   checkArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			root.Long = manual
			header := doc.GenManHeader{Section: "8", Source: "latchfs " + version, Manual: "latchfs"}
			return doc.GenManTree(root, &header, args[0])
		},
	}}
}
