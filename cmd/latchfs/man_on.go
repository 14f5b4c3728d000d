//go:build man

package main

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// manual is the text that the page latchfs(8) has in addition to the output of --help, in Markdown.
//
//go:embed package/manual.md
var manual string

// jsonPage is the page latchfs-json(5), in Markdown.
//
//go:embed package/json.md
var jsonPage []byte

// pages returns the hidden command man, which writes a manual page for each other command.
func pages(root *cobra.Command) []*cobra.Command {
	return []*cobra.Command{{
		Use:    "man DIR",
		Hidden: true,
		Args:   checkArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			root.Long = manual
			header := doc.GenManHeader{Section: "8", Source: "latchfs " + version, Manual: "latchfs"}
			return errors.Join(doc.GenManTree(root, &header, args[0]),
				os.WriteFile(filepath.Join(args[0], "latchfs-json.5"), md2man.Render(jsonPage), 0o644))
		},
	}}
}
