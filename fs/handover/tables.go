//go:build linux

package handover

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	tablesMagic = 0x31626174_6c686374 // "tchltab1"
	// tablesVersion changes with the layout of any row.
	tablesVersion = 5 + versionsAhead

	// FirstNodeID is the first node id given out. The user of the tables has fixed ids below it.
	FirstNodeID = 16

	maxInodeRows  = 1 << 22
	maxHandleRows = 1 << 20
	maxTextRows   = 1 << 23
	maxWatchRows  = 1 << 16
	intentRows    = 1 << 12
	lookupRows    = 1 << 15
)

// Tables are the tables of a mount. Their methods may be called from many goroutines. A row is changed only under the
// lock that guards the object it describes.
type Tables struct {
	file   *os.File
	memory []byte
	Head   *Head
	// column tells which descriptor of each pair is this server's: 0 or 1.
	column int
	// predecessor is a pidfd of the descriptor keeper of the server before, until Activate ends it. -1 is none.
	predecessor int

	Inodes  Rows[InodeRow]
	Handles Rows[HandleRow]
	texts   Rows[textRow]
	Watches Watches
	intents []intentRow
	lookups []lookupRow
}

// New makes the memory for the tables of a mount. A process that outlives the server has to keep the file open too.
func New() (*os.File, error) {
	fd, err := unix.MemfdCreate("latchfs-tables", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the tables: %w", err)
	}
	file := os.NewFile(uintptr(fd), "latchfs-tables")
	if err := file.Truncate(int64(tablesSize())); err != nil {
		file.Close()
		return nil, fmt.Errorf("memory for the tables: %w", err)
	}
	return file, nil
}

// Reset empties the tables in file for another mount.
func Reset(file *os.File) error {
	return errors.Join(file.Truncate(0), file.Truncate(int64(tablesSize())))
}

func sizeOf[T any](n int) int {
	var row T
	const page = 4096
	return (n*int(unsafe.Sizeof(row)) + page - 1) &^ (page - 1)
}

func tablesSize() int {
	return sizeOf[Head](1) + sizeOf[InodeRow](maxInodeRows) + sizeOf[HandleRow](maxHandleRows) +
		sizeOf[textRow](maxTextRows) + sizeOf[watchRow](maxWatchRows) + sizeOf[intentRow](intentRows) + sizeOf[lookupRow](lookupRows)
}

// Open maps the tables in file and owns it from then on. A nil file stands for tables that no other process shares. It
// returns ErrTables if the tables are of another version.
func Open(file *os.File) (_ *Tables, err error) {
	if file == nil {
		if file, err = New(); err != nil {
			return nil, err
		}
	}
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if info.Size() != int64(tablesSize()) {
		return nil, ErrTables
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, tablesSize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the tables: %w", err)
	}
	t := &Tables{file: file, memory: memory, predecessor: -1}
	rest := memory
	t.Head = &carve[Head](&rest, 1)[0]
	if t.Head.magic == 0 {
		t.Head.magic, t.Head.version = tablesMagic, tablesVersion
		t.Head.NextNode.Store(FirstNodeID)
		t.Head.NextHandle.Store(1)
	}
	if err := t.Head.check(); err != nil {
		unix.Munmap(memory)
		return nil, err
	}
	t.Inodes = Rows[InodeRow]{all: carve[InodeRow](&rest, maxInodeRows), used: &t.Head.inodesUsed}
	t.Handles = Rows[HandleRow]{all: carve[HandleRow](&rest, maxHandleRows), used: &t.Head.handlesUsed}
	t.texts = Rows[textRow]{all: carve[textRow](&rest, maxTextRows), used: &t.Head.textsUsed}
	t.Watches.tables = t
	t.Watches.rows = Rows[watchRow]{all: carve[watchRow](&rest, maxWatchRows), used: &t.Head.watchesUsed}
	t.intents = carve[intentRow](&rest, intentRows)
	t.lookups = carve[lookupRow](&rest, lookupRows)
	if active := t.Head.active.Load(); active != 0 {
		t.column = 1 - t.activeColumn()
		t.Inodes.findFree(func(r *InodeRow) bool { return r.ID.Load() == 0 })
		t.Handles.findFree(func(r *HandleRow) bool { return r.ID.Load() == 0 })
		t.Watches.rows.findFree(func(r *watchRow) bool { return r.pid.Load() == 0 })
		t.texts.findFree(func(r *textRow) bool { return r.used.Load() == 0 })
	}
	return t, nil
}

// mapHead maps only the first row.
func mapHead(file *os.File) (head *Head, unmap func() error, err error) {
	memory, err := unix.Mmap(int(file.Fd()), 0, sizeOf[Head](1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map the tables: %w", err)
	}
	return (*Head)(unsafe.Pointer(&memory[0])), func() error { return unix.Munmap(memory) }, nil
}

func (h *Head) check() error {
	if h.magic != tablesMagic || h.version != tablesVersion {
		return fmt.Errorf("%w: version %d, this latchfs reads %d", ErrTables, h.version, tablesVersion)
	}
	return nil
}

// Active reports whether the tables are those of a mount that outlives its server.
func (t *Tables) Active() bool { return t.Head.active.Load() != 0 }

func (t *Tables) activeColumn() int { return int(t.Head.active.Load()) - 1 }

// Close unmaps the tables. No row may be used afterwards.
func (t *Tables) Close() error {
	return errors.Join(unix.Munmap(t.memory), t.file.Close())
}

func carve[T any](memory *[]byte, n int) []T {
	table := unsafe.Slice((*T)(unsafe.Pointer(&(*memory)[0])), n)
	*memory = (*memory)[sizeOf[T](n):]
	return table
}

// Set records the number of an open descriptor of this server. -1 strikes the number out.
func (t *Tables) Set(pair *DescriptorPair, fd int) { pair[t.column].Store(int32(fd + 1)) }

// Descriptor returns the number that this server recorded, -1 if there is none.
func (t *Tables) Descriptor(pair *DescriptorPair) int { return int(pair[t.column].Load()) - 1 }
