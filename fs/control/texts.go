//go:build linux

package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strconv"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/lockstore"
)

// marshal returns indented JSON.
func marshal(of any) (iter.Seq[[]byte], error) {
	text, err := json.MarshalIndent(of, "", "  ")
	return whole(append(PrintableJSON(text), '\n')), err
}

// visible yields the locks that a user may see.
func (d *Dir) visible(to access.User) iter.Seq[lockstore.Entry] {
	return d.host.Locks.All(func(name string) bool { return d.host.Access.Lists(to, name) })
}

// infos yields the latest locks that were reaped and then all current locks, as far as a user may see them.
func (d *Dir) infos(to access.User) iter.Seq[LockInfo] {
	recent, visible := d.host.Locks.Recent(), d.visible(to)
	return func(yield func(LockInfo) bool) {
		for _, r := range recent {
			if !d.host.Access.Lists(to, r.Name) {
				continue
			}
			info := LockInfoOf(r.Lock, r.Judgment)
			info.ReclaimedAt = &r.Time
			if !yield(info) {
				return
			}
		}
		for e := range visible {
			if !yield(EntryInfo(e)) {
				return
			}
		}
	}
}

// list returns infos as a JSON array with an element per line.
func (d *Dir) list(to access.User) (iter.Seq[[]byte], error) {
	infos := d.infos(to)
	return func(yield func([]byte) bool) {
		between := "[\n"
		var text bytes.Buffer
		encoder := json.NewEncoder(&text)
		var info LockInfo // shared by all iterations, which would otherwise allocate one each
		for info = range infos {
			text.Reset()
			text.WriteString(between)
			// It has strings, numbers and times, which can be encoded.
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

// lock returns the lock of a name. It is the text of lock/NAME.
func (d *Dir) lock(name string, to access.User) (iter.Seq[[]byte], error) {
	e, ok := d.host.Locks.Get(name)
	if !ok || !d.host.Access.Names(to, name) {
		return nil, unix.ENOENT
	}
	info := EntryInfo(e)
	if e.Open && info.HolderEnded {
		for _, p := range d.host.OpenedBy(name) {
			info.OpenedBy = append(info.OpenedBy, ProcessInfoOf(p))
		}
	}
	return marshal(info)
}

// tableRows is the number of rows whose columns are aligned with each other.
const tableRows = 1000

// table returns the locks as a table for people. Users are numbers, since a reader in a container may know other names.
func (d *Dir) table(to access.User) (iter.Seq[[]byte], error) {
	visible := d.visible(to)
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
		for e := range visible {
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

func (d *Dir) status(access.User) (iter.Seq[[]byte], error) { return marshal(d.host.Status()) }

func (d *Dir) metrics(access.User) (iter.Seq[[]byte], error) {
	text, err := d.host.Metrics()
	return whole(text), err
}

// reclaimed returns the reaped files of which copies are kept: root sees all, other users their own and those that they
// could see in the mount.
func (d *Dir) reclaimed(to access.User) (iter.Seq[[]byte], error) {
	infos := []ReclaimedInfo{}
	for _, r := range d.host.Locks.Reclaimed() {
		if r.UID != to.UID && !(r.Whole && d.host.Access.Lists(to, r.Name)) && to.UID != 0 {
			continue
		}
		infos = append(infos, ReclaimedInfo{r.Name, r.Generation, r.Time, string(r.Reason), r.Size, r.File})
	}
	return marshal(infos)
}
