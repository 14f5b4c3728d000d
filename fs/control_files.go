//go:build linux

package fs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"os"
	"path"
	"runtime"
	"strconv"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/lockstore"
)

// asJSON makes the content of a file of what it is about.
func asJSON(of func(*control, accessor) any) func(*control, accessor) (iter.Seq[[]byte], error) {
	return func(c *control, to accessor) (iter.Seq[[]byte], error) { return marshal(of(c, to)) }
}

func marshal(of any) (iter.Seq[[]byte], error) {
	text, err := json.MarshalIndent(of, "", "  ")
	return said(append(PrintableJSON(text), '\n')), err
}

// all are the locks there are that a user sees.
func (c *control) all(to accessor) iter.Seq[lockstore.Entry] {
	return c.fs.locks.All(func(name string) bool { return c.fs.sees(to, name, listsIt) })
}

// locks are those, after the last ones that were reaped.
func (c *control) locks(to accessor) iter.Seq[LockInfo] {
	recent, all := c.fs.locks.Recent(), c.all(to)
	return func(yield func(LockInfo) bool) {
		for _, r := range recent {
			if !c.fs.sees(to, r.Name, listsIt) {
				continue
			}
			info := LockInfoOf(r.Lock, r.Judgment)
			info.ReclaimedAt = &r.Time
			if !yield(info) {
				return
			}
		}
		for e := range all {
			if !yield(entryInfo(e)) {
				return
			}
		}
	}
}

// list is locks as a JSON array, a line each.
func (c *control) list(to accessor) (iter.Seq[[]byte], error) {
	locks := c.locks(to)
	return func(yield func([]byte) bool) {
		between := "[\n"
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		var info LockInfo // one for all: each of its own would be garbage
		for info = range locks {
			text.Reset()
			text.WriteString(between)
			// It is of strings, numbers and times, which can be encoded.
			_ = encoder.Encode(&info)
			text.Truncate(text.Len() - len("\n"))
			if !yield(PrintableJSON(text.Bytes())) {
				return
			}
			between = ",\n"
		}
		if between[0] == '[' {
			yield([]byte("[]\n"))
		} else {
			yield([]byte("\n]\n"))
		}
	}, nil
}

// lock is the one of a name.
func (c *control) lock(name string, to accessor) (iter.Seq[[]byte], error) {
	e, ok := c.fs.locks.Get(name)
	if !ok || !c.fs.sees(to, name, namesIt) {
		return nil, unix.ENOENT
	}
	info := entryInfo(e)
	if e.Open && info.HolderEnded {
		info.OpenedBy = c.fs.openedBy(name)
	}
	return marshal(info)
}

// openedBy are the processes that have the file at name open, but for latchfs's own.
func (f *FS) openedBy(name string) (infos []ProcessInfo) {
	for _, p := range f.callers.OpenedBy(path.Join(f.dir, name)) {
		if p.PID != os.Getpid() && p.PID != f.DescriptorKeeper() {
			infos = append(infos, ProcessInfoOf(p))
		}
	}
	return infos
}

// tableRows is how many rows of the table are lined up with each other.
const tableRows = 1000

// table is the locks there are for people. Users are numbers: their names may be others where it is read.
func (c *control) table(to accessor) (iter.Seq[[]byte], error) {
	all := c.all(to)
	return func(yield func([]byte) bool) {
		var text bytes.Buffer
		w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "LOCK\tPID\tCOMMAND\tUID\tVERDICT\tAGE\tEVIDENCE")
		flush := func() bool {
			_ = w.Flush() // to memory
			more := yield(text.Bytes())
			text.Reset()
			return more
		}
		rows := 0
		for e := range all {
			writeRow(w, e)
			if rows++; rows%tableRows == 0 && !flush() {
				return
			}
		}
		flush()
	}, nil
}

func writeRow(w io.Writer, e lockstore.Entry) {
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

func (c *control) metrics(accessor) (iter.Seq[[]byte], error) {
	text, err := c.fs.metrics()
	return said(text), err
}

// reclaimed are the files that were removed: those of the user, and those it could have seen.
func (c *control) reclaimed(to accessor) any {
	infos := []ReclaimedInfo{}
	for _, r := range c.fs.locks.Reclaimed() {
		if r.UID != to.uid && !(r.Whole && c.fs.sees(to, r.Name, listsIt)) && to.uid != 0 {
			continue
		}
		infos = append(infos, ReclaimedInfo{r.Name, r.Generation, r.Time, string(r.Reason), r.Size, r.File})
	}
	return infos
}

func (c *control) current() Status {
	s := c.status
	s.ServerPID, s.DescriptorKeeperPID, s.DiesWithServer = os.Getpid(), c.fs.DescriptorKeeper(), c.fs.bound
	s.Passthrough = !c.fs.NoPassthrough.Load()
	s.Inodes, s.Handles, s.Goroutines = c.fs.Inodes.Size(), c.fs.Files.Size(), runtime.NumGoroutine()
	s.Locks, s.Waiting = c.fs.locks.Count(), c.fs.locks.Waiting()
	return s
}
