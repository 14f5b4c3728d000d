package main

import (
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"latchfs/bootid"
	"latchfs/fs/backing"
	"latchfs/fs/control"
	"latchfs/fs/handover"
	"latchfs/fs/lockname"
	"latchfs/lockstore"
	"latchfs/lockstore/verdict"
)

func scanCommand() *cobra.Command {
	var flags scanFlags
	cmd := &cobra.Command{
		Use:   "scan DIR",
		Short: "Judge the lock files of a directory without a mount",
		Long: `Judge the lock files of DIR, which is not mounted, by their contents and the running
processes. With --fix, remove the stale files. These include empty files that are older than
--stale-after and that no process has open. Without a mount, latchfs cannot stop a program
from taking a lock at the same moment: before --fix, stop the programs that lock in DIR.`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error { return runScan(cmd.OutOrStdout(), args[0], flags) },
	}
	f := cmd.Flags()
	f.BoolVar(&flags.fix, "fix", false, "remove the stale lock files")
	f.BoolVar(&flags.asJSON, "json", false, "print all details of each lock file as JSON")
	lockPatternVar(f, &flags.patterns)
	f.DurationVar(&flags.staleAfter, "stale-after", 30*time.Minute, "age at which a lock with an unknown holder becomes stale; 0 means never")
	return cmd
}

type scanFlags struct {
	fix, asJSON bool
	patterns    []string
	staleAfter  time.Duration
}

// scanned is the result for a lock file in latchfs scan --json.
type scanned struct {
	control.LockInfo
	Removed bool   `json:"removed"`
	Error   string `json:"error,omitempty"`
}

func runScan(out io.Writer, dir string, flags scanFlags) error {
	if err := notNegative("stale-after", flags.staleAfter); err != nil {
		return err
	}
	patterns, err := lockname.Parse(flags.patterns)
	if err != nil {
		return usageError{err}
	}
	dir, err = realDir(dir)
	if err != nil {
		return err
	}
	at, inside, err := mountsAt(dir)
	if err != nil {
		return err
	}
	if len(at) > 0 || inside != nil {
		return coded{exitMounted, fmt.Errorf("%s is in a latchfs mount, where every lock is judged already; use latchfs ls", dir)}
	}
	host := bootid.NewHost()
	defer host.Close()
	files, closeFiles, err := scanFiles(dir, host)
	if err != nil {
		return err
	}
	defer closeFiles()
	names, err := lockFiles(dir, patterns)
	if err != nil {
		return err
	}
	scanner := lockstore.NewScanner(host, files, flags.staleAfter, attributesBy(patterns))
	results, failed := scanAll(scanner, names, flags.fix)
	if flags.asJSON {
		err = printJSON(out, results)
	} else {
		err = printScanned(out, results)
	}
	return errors.Join(failed, err)
}

// scanAll judges the lock files and, with fix, removes the stale ones. The error joins those of single files.
func scanAll(scanner *lockstore.Scanner, names []string, fix bool) ([]scanned, error) {
	results := []scanned{} // not nil, so that JSON has an empty array
	var failed []error
	shown := newProgress(os.Stderr, "lock files judged")
	for i, name := range names {
		shown.at(i, len(names))
		found, err := scanner.Judge(name)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		result := scanned{LockInfo: scanInfo(name, found)}
		if err == nil && fix && found.Verdict == verdict.Stale {
			result.Removed, err = scanner.Remove(name)
		}
		if err != nil {
			result.Error = err.Error()
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
		results = append(results, result)
	}
	shown.end()
	return results, errors.Join(failed...)
}

func scanInfo(name string, found lockstore.Scanned) control.LockInfo {
	info := control.LockInfo{
		Name: name, Kind: string(verdict.KindFound), Made: found.File.Written,
		Verdict: found.Verdict.String(), Reason: string(found.Reason), Rule: string(found.Rule), Evidence: found.Evidence,
		Holder: control.ProcessInfoOf(found.Holder), Payload: found.Class.String(),
	}
	if found.Verdict == verdict.Settled {
		info.Verdict = "settled"
	}
	return info
}

func printScanned(out io.Writer, results []scanned) error {
	table := newTable(out)
	fmt.Fprintln(table, "LOCK\tVERDICT\tAGE\tEVIDENCE")
	for _, r := range results {
		what := r.Verdict
		if r.Reason != "" {
			what += " (" + r.Reason + ")"
		}
		if r.Removed {
			what += ", removed"
		}
		evidence := r.Evidence
		if r.Error != "" {
			evidence = r.Error
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", control.Printable(r.Name), what, age(time.Since(r.Made)), control.Printable(evidence))
	}
	return table.Flush()
}

// scanFiles opens the directory as the store needs it. The first question whether a file is open reads /proc for all
// files. The returned function closes the directory.
func scanFiles(dir string, host *bootid.Host) (lockstore.Files, func(), error) {
	dirFile, err := os.Open(dir)
	if err != nil {
		return nil, nil, err
	}
	log := logrus.New()
	log.SetOutput(io.Discard) // the backing directory logs only what concerns a mount
	tables, err := handover.Open(nil)
	if err != nil {
		return nil, nil, err
	}
	directory, err := backing.Open(backing.Options{Tables: tables, Backing: dirFile, Log: log})
	if err != nil {
		return nil, nil, err
	}
	return &unmountedFiles{Files: directory.LockFiles(), host: host}, directory.Close, nil
}

// unmountedFiles are the lock files of a directory without a mount. /proc tells which of them are open.
type unmountedFiles struct {
	lockstore.Files
	host *bootid.Host
	once sync.Once
	open map[bootid.OpenFile]bool
}

// Opened implements lockstore.Files.
func (u *unmountedFiles) Opened(name string) bool {
	u.once.Do(func() { u.open = u.host.OpenFiles() })
	file, err := u.Stat(name)
	return err == nil && u.open[bootid.OpenFile{Device: file.ID.Device, Inode: file.ID.Inode}]
}
