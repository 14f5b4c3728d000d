package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"latchfs/fs/control"
	"latchfs/fs/lockname"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

func lsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ls DIR",
		Short: "List the locks of a mount and their holders",
		Long: `List the locks of the mount DIR and their holders, then the files with lock names that are not
locks, and the processes that hold flock(2) or fcntl(2) locks on these files. With --json, list also
the locks that were most recently removed as stale, and the reasons.`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			var status control.Status
			if err := readControl(args[0], "status", &status); err != nil {
				return err
			}
			if status.DiesWithServer != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), "latchfs: this mount dies with its server:", status.DiesWithServer)
			}
			locks, err := listLocks(args[0], status)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), locks)
			}
			return printLocks(cmd.OutOrStdout(), locks, time.Now(), styleOf(cmd.OutOrStdout()))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all details of each lock as JSON")
	return cmd
}

func printJSON(out io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = out.Write(append(control.PrintableJSON(text), '\n'))
	return err
}

// listLocks reads the locks from latchfs and finds the other files with lock names by walking dir.
func listLocks(dir string, status control.Status) ([]control.LockInfo, error) {
	patterns, err := lockname.Parse(status.LockPatterns)
	if err != nil {
		return nil, err
	}
	files, err := lockFiles(dir, patterns)
	if err != nil {
		return nil, err
	}
	locks := []control.LockInfo{} // not nil, so that JSON has an empty array
	at := make(map[string]int)
	// Read after the walk, because the walk makes latchfs judge every file.
	for l, err := range readLocks(dir) {
		if err != nil {
			return nil, err
		}
		if l.ReclaimedAt == nil {
			at[l.Name] = len(locks)
		}
		locks = append(locks, l)
	}
	root, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	flocks := readKernelLocks()
	locked := flocks.within(root)
	for _, name := range files {
		i, managed := at[name]
		if managed && !locked {
			continue // Lstat of a lock costs a request
		}
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if err != nil {
			continue // the file has gone
		}
		if !managed {
			i = len(locks)
			locks = append(locks, settled(path, name, info))
		}
		locks[i].LockedBy = flocks.on(path, info)
	}
	return locks, nil
}

// lockFiles walks dir and returns the relative paths of the files with lock names, sorted.
func lockFiles(dir string, patterns lockname.Patterns) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && path == dir:
			return err
		case err != nil:
			return nil // the file has gone, or the caller may not read the directory
		case path != dir && patterns.Match(entry.Name()):
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// settled describes a file that has a lock name and is not a lock.
func settled(path, name string, info fs.FileInfo) control.LockInfo {
	class := payload.Data
	switch {
	case info.Mode().IsRegular() && info.Size() <= payload.Limit:
		if text, err := os.ReadFile(path); err == nil {
			class = payload.Found(text).Class
		}
	case info.IsDir():
		if entries, err := os.ReadDir(path); err == nil && len(entries) == 0 {
			class = payload.Empty
		}
	}
	return control.LockInfo{
		Name: name, Made: info.ModTime(), Verdict: "settled", Payload: class.String(),
		Evidence: "an ordinary file: latchfs leaves it alone",
	}
}

// tableRows is the number of rows that are aligned with each other. A tabwriter keeps them in memory, and there may be
// a million.
const tableRows = 1000

// leastName is the number of characters of a name that are shown on the narrowest terminal.
const leastName = 12

func printLocks(out io.Writer, locks []control.LockInfo, now time.Time, look style) error {
	table := newTable(out)
	users := make(userNames)
	most := nameWidth(locks, now, look, users)
	fmt.Fprintf(table, "LOCK\tPID\tCOMMAND\tUSER\t%s\tAGE\n", look.in(colourNone, "VERDICT"))
	for i, l := range locks {
		if i%tableRows == tableRows-1 {
			if err := table.Writer.Flush(); err != nil {
				return err
			}
		}
		if l.ReclaimedAt != nil {
			continue
		}
		c := cellsOf(l, now, users)
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", tail(c[0], most), c[1], c[2], c[3], look.in(verdictColour(l.Verdict), c[4]), c[5])
		for _, k := range l.LockedBy {
			word := strings.ToLower(k.Type + " " + k.Access)
			if k.Waiting {
				word += ", waits"
			}
			for _, p := range k.OpenedBy {
				fmt.Fprintf(table, "  %s\t%d\t%s\t-\t%s\t-\n", "", p.PID, control.Printable(p.Command), look.in(colourNone, word+", inherited"))
			}
			if len(k.OpenedBy) > 0 {
				continue
			}
			fmt.Fprintf(table, "  %s\t%d\t%s\t-\t%s\t-\n", "", k.PID, control.Printable(k.Command), look.in(colourNone, word))
		}
	}
	return table.Flush()
}

// nameWidth returns the width that the other columns leave for the name, in characters.
func nameWidth(locks []control.LockInfo, now time.Time, look style, users userNames) int {
	if look.width == 0 {
		return math.MaxInt
	}
	widths := []int{0, len("PID"), len("COMMAND"), len("USER"), len("VERDICT"), len("AGE")}
	for _, l := range locks {
		for i, cell := range cellsOf(l, now, users) {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	room := look.width
	for _, width := range widths[1:] {
		room -= width + tablePadding
	}
	return max(room, leastName)
}

// cellsOf returns the columns of a lock.
func cellsOf(l control.LockInfo, now time.Time, users userNames) [6]string {
	pid, command, name := "-", "-", "-"
	if l.Holder.PID != 0 {
		pid, command, name = strconv.Itoa(l.Holder.PID), l.Holder.Command, users.of(l.Holder.UID)
		if l.HolderEnded {
			pid = "ended"
		}
	}
	what := l.Verdict
	if detail := l.Reason + l.Payload; detail != "" {
		what += " (" + detail + ")"
	}
	return [...]string{control.Printable(l.Name), pid, control.Printable(command), name, what, age(now.Sub(l.Made))}
}

func verdictColour(of string) string {
	switch of {
	case verdict.Live.String():
		return colourGreen
	case verdict.Stale.String():
		return colourRed
	case verdict.Unknown.String():
		return colourYellow
	}
	return colourNone
}

// userNames caches the names of users by uid.
type userNames map[uint32]string

// of returns the name of a user, or the uid if the user has no name.
func (n userNames) of(uid uint32) string {
	name, known := n[uid]
	if !known {
		name = strconv.FormatUint(uint64(uid), 10)
		if u, err := user.LookupId(name); err == nil {
			name = u.Username
		}
		n[uid] = name
	}
	return name
}

// age formats a duration in one or two units, for people.
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
