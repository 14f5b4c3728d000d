//go:build linux

package handover

import (
	"iter"
	"time"
)

// Operation is a kind of request. The numbers are those of the caller and must not change between versions.
type Operation uint32

// The states of an intentRow.
const (
	intentBegun    = iota
	intentDone     // the result is recorded
	intentRecorded // the consequences are recorded too
)

// Intent is the record of a request that must not be carried out twice. It is written before the system call, and
// completed with the result after it. Rows are used in turn, so that a row still exists while the answer is on its way.
type Intent struct {
	row *intentRow
	// Again reports whether a dead server had begun the request.
	Again bool
}

// FindIntent returns the intent that a dead server wrote for a request.
func (t *Tables) FindIntent(unique uint64, op Operation) (Intent, bool) {
	for i := range t.intents {
		if row := &t.intents[i]; row.unique.Load() == unique && row.op == op {
			return Intent{row, true}, true
		}
	}
	return Intent{}, false
}

// NewIntent returns an intent that counts once it was committed.
func (t *Tables) NewIntent(op Operation) Intent {
	row := &t.intents[(t.Head.intentsMade.Add(1)-1)%intentRows]
	row.unique.Store(0)
	row.op, row.started = op, time.Now().UnixNano()
	row.state.Store(intentBegun)
	row.result.Store(0)
	row.generation.Store(0)
	row.dir.node, row.other.node = 0, 0
	row.dev, row.ino, row.size = 0, 0, 0
	return Intent{row, false}
}

// Intents yields the intents of requests that a dead server may not have answered.
func (t *Tables) Intents() iter.Seq[Intent] {
	return func(yield func(Intent) bool) {
		for i := range t.intents {
			if row := &t.intents[i]; row.unique.Load() != 0 && !yield(Intent{row, true}) {
				return
			}
		}
	}
}

// Commit makes the intent count for a request.
func (i Intent) Commit(unique uint64) { i.row.unique.Store(unique) }

// SetEntry records the entry that the request concerns.
func (i Intent) SetEntry(dir uint64, name string) { i.row.dir.set(dir, name) }

// SetRename records the entries of a rename, its flags, and the file that is renamed.
func (i Intent) SetRename(oldDir uint64, oldName string, newDir uint64, newName string, flags uint32, dev, ino uint64) {
	i.row.dir.set(oldDir, oldName)
	i.row.other.set(newDir, newName)
	i.row.dev, i.row.ino, i.row.size = dev, ino, uint64(flags)
}

// Rename is what SetRename recorded.
type Rename struct {
	OldDir, NewDir   uint64 // node ids
	OldName, NewName string
	Flags            uint32
	Dev, Ino         uint64
}

// Rename returns what SetRename recorded, and whether it was called.
func (i Intent) Rename() (_ Rename, ok bool) {
	return Rename{
		OldDir: i.row.dir.node, OldName: i.row.dir.text(), NewDir: i.row.other.node, NewName: i.row.other.text(),
		Flags: uint32(i.row.size), Dev: i.row.dev, Ino: i.row.ino,
	}, i.row.other.node != 0
}

// SetSize records the size of the file before a write, in bytes.
func (i Intent) SetSize(size int64) { i.row.size = uint64(size) }

// Size returns the size that SetSize recorded.
func (i Intent) Size() int64 { return int64(i.row.size) }

// SetGeneration records the lock that was acquired for the request.
func (i Intent) SetGeneration(generation uint64) { i.row.generation.Store(generation) }

// Generation returns the lock that was acquired for the request, 0 if there is none.
func (i Intent) Generation() uint64 { return i.row.generation.Load() }

// Operation returns the kind of the request.
func (i Intent) Operation() Operation { return i.row.op }

// Started returns when the request was begun, in ns of Unix time.
func (i Intent) Started() int64 { return i.row.started }

// Result returns the result that was recorded, and whether there is one.
func (i Intent) Result() (result int64, ok bool) {
	return i.row.result.Load(), i.row.state.Load() != intentBegun
}

// SetResult records the result.
func (i Intent) SetResult(result int64) {
	i.row.result.Store(result)
	i.row.state.Store(intentDone)
}

// Recorded reports whether Close was called after the result.
func (i Intent) Recorded() bool { return i.row.state.Load() == intentRecorded }

// Close records that the consequences of the request are recorded too. An intent without a result is withdrawn: the
// request was refused.
func (i Intent) Close() {
	if i.row.state.Load() == intentBegun {
		i.row.unique.Store(0)
		return
	}
	i.row.state.Store(intentRecorded)
}

func (e *entryRow) set(node uint64, name string) {
	e.node, e.size = node, uint32(copy(e.name[:], name))
}

func (e *entryRow) text() string { return string(e.name[:min(int(e.size), len(e.name))]) }
