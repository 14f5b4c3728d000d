package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"latchfs/fs/control"
)

func reclaimedCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reclaimed DIR",
		Short: "List the kept contents of removed lock files",
		Args:  oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []control.ReclaimedInfo
			if err := readControl(args[0], "reclaimed", &files); err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, files)
			}
			table := newTable(out)
			fmt.Fprintln(table, "LOCK\tREMOVED\tREASON\tBYTES\tKEPT AS")
			for _, f := range files {
				reason := f.Reason
				if reason == "" {
					reason = "released"
				}
				fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", control.Printable(f.Name), f.Time.Local().Format(time.DateTime), reason, f.Size, control.Printable(f.File))
			}
			return table.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the list as JSON")
	return cmd
}
