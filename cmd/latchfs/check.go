package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"latchfs/fs/control"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

// checked is what latchfs check --json prints of a journal.
type checked struct {
	Journal    string             `json:"journal"`
	Size       int64              `json:"size"`       // bytes
	Sound      int64              `json:"sound"`      // bytes of whole records
	Generation uint64             `json:"generation"` // the last one given out
	Locks      []control.LockInfo `json:"locks"`      // as recorded, without a verdict
}

func checkedOf(r lockstore.JournalReport) checked {
	c := checked{r.Path, r.Size, r.Sound, r.Generation, []control.LockInfo{}}
	for _, l := range r.Locks {
		info := control.LockInfoOf(l, verdict.Judgment{Rule: l.Rule})
		info.Verdict = ""
		c.Locks = append(c.Locks, info)
	}
	return c
}

func checkCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check STATE_DIR",
		Short: "Check the journal of a state directory and print its records",
		Args:  checkArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			shown := newProgress(cmd.ErrOrStderr(), "bytes read")
			report, err := lockstore.CheckJournal(args[0], shown.at)
			shown.end()
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return coded{exitDir, fmt.Errorf("%s is not a state directory (state_dir in DIR/.latchfs/status names that of a mount): %w", args[0], err)}
			case errors.Is(err, lockstore.ErrNotSound):
				err = coded{exitState, fmt.Errorf("%w; the next latchfs mount will move the rest aside, unless a running latchfs is writing it now", err)}
			case err != nil:
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return errors.Join(printJSON(out, checkedOf(report)), err)
			}
			table := newTable(out)
			fmt.Fprintln(table, "LOCK\tGENERATION\tKIND\tMADE\tPID\tCOMMAND\tUSER\tBOOT")
			users := make(userNames)
			for _, l := range report.Locks {
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%d\t%s\t%s\t%s\n", control.Printable(l.Name), l.Generation, l.Kind, l.Made.Local().Format(time.DateTime),
					l.Holder.PID, control.Printable(l.Holder.Command), users.of(l.Holder.UID), l.BootID)
			}
			fmt.Fprintf(table, "%d locks; %d of %d bytes are whole records; the last generation is %d\n", len(report.Locks), report.Sound, report.Size, report.Generation)
			return errors.Join(table.Flush(), err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}
