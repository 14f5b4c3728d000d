//go:build linux

package fs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// asJSON makes the content of a file of what it is about.
func asJSON(of func(*control) any) func(*control) ([]byte, error) {
	return func(c *control) ([]byte, error) { return marshal(of(c)) }
}

func marshal(of any) ([]byte, error) {
	text, err := json.MarshalIndent(of, "", "  ")
	return append(text, '\n'), err
}

// locks are those there are, after the last ones that were reaped.
func (c *control) locks() any {
	infos := []LockInfo{}
	for _, r := range c.fs.locks.Recent() {
		info := lockInfo(r.Lock, r.Judgment)
		info.ReclaimedAt = &r.Time
		infos = append(infos, info)
	}
	for _, e := range c.fs.locks.List() {
		infos = append(infos, entryInfo(e))
	}
	return infos
}

// lock is the one of a name.
func (c *control) lock(name string) ([]byte, error) {
	e, ok := c.fs.locks.Get(name)
	if !ok {
		return nil, unix.ENOENT
	}
	return marshal(entryInfo(e))
}

// table is the locks there are for people. Users are numbers: their names may be others where it is read.
func (c *control) table() ([]byte, error) {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LOCK\tPID\tCOMMAND\tUID\tVERDICT\tAGE\tEVIDENCE")
	for _, e := range c.fs.locks.List() {
		verdict := e.Verdict.String()
		if e.Reason != "" {
			verdict += " (" + string(e.Reason) + ")"
		}
		pid, command := "-", "-"
		if e.Holder.Known() {
			pid, command = strconv.Itoa(e.Holder.PID), Printable(e.Holder.Command)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%v\t%s\n", Printable(e.Name), pid, command, e.Holder.UID, verdict,
			time.Since(e.Made).Round(time.Second), Printable(e.Evidence))
	}
	err := w.Flush()
	return text.Bytes(), err
}

func (c *control) reclaimed() any {
	infos := []ReclaimedInfo{}
	for _, r := range c.fs.locks.Reclaimed() {
		infos = append(infos, ReclaimedInfo{r.Name, r.Generation, r.Time, string(r.Reason), r.Size, r.File})
	}
	return infos
}

func (c *control) current() Status {
	s := c.status
	s.ServerPID, s.AnchorPID, s.DiesWithServer = os.Getpid(), c.fs.Anchor(), c.fs.bound
	s.Passthrough = !c.fs.noPassthrough.Load()
	s.Inodes, s.Handles, s.Goroutines = c.fs.inodes.size(), c.fs.files.size(), runtime.NumGoroutine()
	s.Locks, s.Waiting = c.fs.locks.Count(), c.fs.locks.Waiting()
	return s
}
