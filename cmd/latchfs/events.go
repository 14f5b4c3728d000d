package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"latchfs/fs/control"
)

func eventsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "events DIR",
		Short: "Print the events of the locks of a mount until Ctrl-C",
		Args:  oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := readControl(args[0], "status", &control.Status{}); err != nil {
				return err
			}
			file, err := os.Open(filepath.Join(args[0], controlDir, "events"))
			if err != nil {
				return err
			}
			defer file.Close()
			if asJSON {
				_, err = io.Copy(cmd.OutOrStdout(), file)
				return err
			}
			return printEvents(cmd.OutOrStdout(), file)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print each event as a line of JSON")
	return cmd
}

// printEvents prints a line for each event until the input ends.
func printEvents(out io.Writer, from io.Reader) error {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		var e control.EventInfo
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("%s: %w", lines.Text(), err)
		}
		if _, err := fmt.Fprintln(out, eventWords(e)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func eventWords(e control.EventInfo) string {
	words := fmt.Sprintf("%s %-9s ", e.Time.Local().Format("15:04:05.000"), e.Event)
	switch {
	case e.Lost > 0:
		return words + fmt.Sprintf("%d events: this reader was too slow", e.Lost)
	case e.Name == "":
		return words + "latchfs was restarted"
	}
	words += control.Printable(e.Name)
	if e.Generation > 0 {
		words += fmt.Sprintf(" #%d", e.Generation)
	}
	if e.Holder.PID != 0 {
		words += fmt.Sprintf(" held by %d (%s)", e.Holder.PID, control.Printable(e.Holder.Command))
	}
	if e.By.PID != 0 {
		words += fmt.Sprintf(", by %d (%s)", e.By.PID, control.Printable(e.By.Command))
	}
	if e.Waited > 0 {
		words += fmt.Sprintf(" after waiting %v", time.Duration(e.Waited*float64(time.Second)).Round(time.Millisecond))
	}
	if e.Reason != "" {
		words += ": " + e.Reason
	}
	return words
}
