package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os/user"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	latch "latchfs/fs"
)

func lsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls DIR",
		Short: "List the locks of a mount and who holds them",
		Args:  oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			if asJSON {
				var locks json.RawMessage
				if err := readControl(args[0], "locks.json", &locks); err != nil {
					return err
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", locks)
				return err
			}
			var locks []latch.LockInfo
			if err := readControl(args[0], "locks.json", &locks); err != nil {
				return err
			}
			return printLocks(cmd.OutOrStdout(), locks, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all that is known of each lock as JSON")
	return cmd
}

func printLocks(out io.Writer, locks []latch.LockInfo, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "LOCK\tPID\tCOMMAND\tUSER\tVERDICT\tAGE")
	for _, l := range locks {
		pid, command, name := "-", "-", "-"
		if l.Holder.PID != 0 {
			pid, command, name = strconv.Itoa(l.Holder.PID), l.Holder.Command, userName(l.Holder.UID)
		}
		verdict := l.Verdict
		if l.Reason != "" {
			verdict += " (" + l.Reason + ")"
		}
		// Names and commands are chosen by programs: quoted where they could disturb a terminal.
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", printable(l.Name), pid, printable(command), name, verdict, age(now.Sub(l.Made)))
	}
	return table.Flush()
}

func printable(s string) string {
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// age is a duration with the precision people want of it.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
