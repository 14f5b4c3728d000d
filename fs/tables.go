//go:build linux

package fs

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the kernel was told has to outlive the server that told it. It is kept in memory that the
// keeper holds too (memfd_create(2)), as tables of rows of a fixed size, so that it is whole at
// every instruction at which a server may be killed:
//
//   - A row counts from the moment its id is stored, which is done last, and is free again from
//     the moment its id is 0, which is done first.
//   - A descriptor is written down after it was opened, and struck out before it is closed.
//   - A lookup is counted before the kernel hears of it. What a dead server counted for a request
//     it did not answer is taken back when that request comes again (lookupRow).
//   - What is longer than a word is written into a row that is not in use yet.
//
// So a kill can leave a lookup or a row too many, never one too few.

const (
	tablesMagic = 0x31626174_6c686374 // "tchltab1"
	// tablesVersion changes with any row below.
	tablesVersion = 5 + versionsAhead

	maxInodeRows  = 1 << 22
	maxHandleRows = 1 << 20
	maxTextRows   = 1 << 23
	maxWatchRows  = 1 << 16
	maxText       = 256 // bytes
	intentRows    = 1 << 12
	lookupRows    = 1 << 15
)

// descriptorPair is a descriptor's number in the servers of either column, plus 1: 0 is none.
type descriptorPair [2]atomic.Int32

// tableHead is the first row.
type tableHead struct {
	// These are the same in every version.

	magic, version uint64
	// active is the column of the server whose descriptors are valid, plus 1: 0 before the mount.
	active            atomic.Uint32
	descriptorKeepers [2]descriptorKeeperRow

	// scanned says that the files from before the mount have all been judged.
	scanned                                         atomic.Bool
	device                                          descriptorPair
	nextNode, nextHandle                            atomic.Uint64
	poison                                          atomic.Uint64 // a request that made a handler panic
	notifier                                        atomic.Uint64 // the thread of the last one
	lookupsMade                                     atomic.Uint64
	intentsMade                                     atomic.Uint64
	lastBacking                                     atomic.Int32 // the last backing id given out
	inodesUsed, handlesUsed, textsUsed, watchesUsed atomic.Uint32
	initRequestSize, initReplySize                  uint32
	initRequest                                     [256]byte
	initReply                                       [256]byte
}

// descriptorKeeperRow is the descriptor keeper of a server.
type descriptorKeeperRow struct {
	pid, started atomic.Uint64
	server       atomic.Uint64 // its pid
}

// inodeRow is an inode the kernel knows.
type inodeRow struct {
	id       atomic.Uint64 // node id
	dev, ino uint64
	lookups  atomic.Uint64
	fd       descriptorPair
	kind     uint32
	flags    atomic.Uint32
	place    atomic.Uint32 // of texts, plus 1: its parent and name
	handle   uint32        // of texts, plus 1: what name_to_handle_at(2) said
}

// The flags of an inodeRow.
const (
	flagLockNamed = 1 << iota
	flagTakenAway
	flagControl // a controlNode
)

// textRow is a name and the node id of its directory, or a file handle and its type. A text that is too long for
// one goes on in the next.
type textRow struct {
	used atomic.Uint32
	size uint32 // of what is here and follows, in bytes
	of   uint64
	next uint32 // of texts, plus 1
	text [44]byte
}

// handleRow is an open file or directory.
type handleRow struct {
	id         atomic.Uint64 // file handle, as the kernel knows it
	node       uint64
	unique     uint64 // of the request that opened it
	generation uint64 // of the lock that was made with it
	writer     writerRow
	fd         descriptorPair
	flags      uint32
	bits       atomic.Uint32
	backing    int32
	user       uint32 // who opened it
}

// writerRow is the process that opened a file at a lock name for writing.
type writerRow struct {
	set                bool // there is one; a pid of 0 is one that is not identified
	pid, nspid         int32
	group, session     int32
	uid                uint32
	mayRemove          bool
	started, namespace uint64
}

// The bits of a handleRow.
const (
	bitDirectory = 1 << iota
	bitPassthrough
	bitDirect
	bitFamily
	bitClosing   // its RELEASE is being answered
	bitReleased  // it does not count as open any more
	bitClosedEnd // its lock's creator was ending then
	bitFlushed   // a descriptor of it was closed before, while that creator was not ending
	bitPolled    // what is polled of .latchfs: node is the kernel's number of that
)

// lookupRow says that a lookup of node was counted for a request.
type lookupRow struct{ unique, node atomic.Uint64 }

// watchRow is the pidfd of a process that is watched.
type watchRow struct {
	pid     atomic.Uint64
	started uint64
	fd      descriptorPair
}

// tables are all of them. Their methods may be called from many goroutines; who changes a row
// holds what guards the thing it is of.
type tables struct {
	file   *os.File
	memory []byte
	head   *tableHead
	// column is which descriptors of each pair are this server's.
	column int

	inodes  rows[inodeRow]
	handles rows[handleRow]
	texts   rows[textRow]
	watches rows[watchRow]
	intents []intentRow
	lookups []lookupRow
}

// NewTables makes the memory for the tables of a mount, which a keeper holds.
func NewTables() (*os.File, error) {
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

// ResetTables empties them, for another mount.
func ResetTables(file *os.File) error {
	return errors.Join(file.Truncate(0), file.Truncate(int64(tablesSize())))
}

func sizeOf[T any](n int) int {
	var row T
	const page = 4096
	return (n*int(unsafe.Sizeof(row)) + page - 1) &^ (page - 1)
}

func tablesSize() int {
	return sizeOf[tableHead](1) + sizeOf[inodeRow](maxInodeRows) + sizeOf[handleRow](maxHandleRows) + sizeOf[textRow](maxTextRows) +
		sizeOf[watchRow](maxWatchRows) + sizeOf[intentRow](intentRows) + sizeOf[lookupRow](lookupRows)
}

// openTables maps them. It returns ErrTables if they are of another version.
func openTables(file *os.File) (*tables, error) {
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if info.Size() != int64(tablesSize()) {
		return nil, ErrTables
	}
	memory, err := unix.Mmap(int(file.Fd()), 0, tablesSize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the tables: %w", err)
	}
	t := &tables{file: file, memory: memory}
	rest := memory
	t.head = &carve[tableHead](&rest, 1)[0]
	if t.head.magic == 0 {
		t.head.magic, t.head.version = tablesMagic, tablesVersion
		t.head.nextNode.Store(firstNodeID)
		t.head.nextHandle.Store(1)
	}
	if err := t.head.check(); err != nil {
		unix.Munmap(memory)
		return nil, err
	}
	t.inodes = rows[inodeRow]{all: carve[inodeRow](&rest, maxInodeRows), used: &t.head.inodesUsed}
	t.handles = rows[handleRow]{all: carve[handleRow](&rest, maxHandleRows), used: &t.head.handlesUsed}
	t.texts = rows[textRow]{all: carve[textRow](&rest, maxTextRows), used: &t.head.textsUsed}
	t.watches = rows[watchRow]{all: carve[watchRow](&rest, maxWatchRows), used: &t.head.watchesUsed}
	t.intents = carve[intentRow](&rest, intentRows)
	t.lookups = carve[lookupRow](&rest, lookupRows)
	if active := t.head.active.Load(); active != 0 {
		t.column = 1 - t.activeColumn()
		t.inodes.findFree(func(r *inodeRow) bool { return r.id.Load() == 0 })
		t.handles.findFree(func(r *handleRow) bool { return r.id.Load() == 0 })
		t.watches.findFree(func(r *watchRow) bool { return r.pid.Load() == 0 })
		t.texts.findFree(func(r *textRow) bool { return r.used.Load() == 0 })
	}
	return t, nil
}

// mapHead maps the first row alone.
func mapHead(file *os.File) (head *tableHead, unmap func() error, err error) {
	memory, err := unix.Mmap(int(file.Fd()), 0, sizeOf[tableHead](1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map the tables: %w", err)
	}
	return (*tableHead)(unsafe.Pointer(&memory[0])), func() error { return unix.Munmap(memory) }, nil
}

func (h *tableHead) check() error {
	if h.magic != tablesMagic || h.version != tablesVersion {
		return fmt.Errorf("%w: version %d, this latchfs reads %d", ErrTables, h.version, tablesVersion)
	}
	return nil
}

func (t *tables) activeColumn() int { return int(t.head.active.Load()) - 1 }

// close unmaps them; nothing may use a row afterwards.
func (t *tables) close() error {
	return errors.Join(unix.Munmap(t.memory), t.file.Close())
}

func carve[T any](memory *[]byte, n int) []T {
	table := unsafe.Slice((*T)(unsafe.Pointer(&(*memory)[0])), n)
	*memory = (*memory)[sizeOf[T](n):]
	return table
}

// set writes the number of an open descriptor down, for this server; -1 strikes it out.
func (t *tables) set(pair *descriptorPair, fd int) { pair[t.column].Store(int32(fd + 1)) }

// rows is a table of which rows are taken and given back.
type rows[T any] struct {
	all  []T
	used *atomic.Uint32 // rows from here on have never been used

	mu   sync.Mutex
	free []uint32
}

// findFree finds the rows that are free, in tables another server used.
func (r *rows[T]) findFree(isFree func(*T) bool) {
	for i := range min(r.used.Load(), uint32(len(r.all))) {
		if isFree(&r.all[i]) {
			r.free = append(r.free, i)
		}
	}
}

// each calls do with every row that may be in use.
func (r *rows[T]) each(do func(*T)) {
	for i := range min(r.used.Load(), uint32(len(r.all))) {
		do(&r.all[i])
	}
}

// take returns a row that is free and zero. When there are no more it is one of this server alone,
// which does not outlive it.
func (r *rows[T]) take() *T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.free); n > 0 {
		row := &r.all[r.free[n-1]]
		r.free = r.free[:n-1]
		var zero T
		*row = zero
		return row
	}
	if int(r.used.Load()) >= len(r.all) {
		return new(T)
	}
	return &r.all[r.used.Add(1)-1]
}

// number is the position of a row, plus 1; 0 if it is none of the table.
func (r *rows[T]) number(row *T) uint32 {
	var zero T
	offset := uintptr(unsafe.Pointer(row)) - uintptr(unsafe.Pointer(&r.all[0]))
	if i := offset / unsafe.Sizeof(zero); i < uintptr(len(r.all)) {
		return uint32(i) + 1
	}
	return 0
}

// at returns the row of a number; nil of 0.
func (r *rows[T]) at(number uint32) *T {
	if number == 0 || int(number) > len(r.all) {
		return nil
	}
	return &r.all[number-1]
}

// give gives a row back, which is marked as free.
func (r *rows[T]) give(row *T) {
	number := r.number(row)
	if number == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, number-1)
}

// addText writes a text down and returns its number; 0 if it is too long or there is no row.
func (t *tables) addText(of uint64, text []byte) (number uint32) {
	if len(text) > maxText {
		return 0
	}
	for end := len(text); ; {
		from := max(0, (end-1)/len(textRow{}.text)*len(textRow{}.text))
		row := t.texts.take()
		row.of, row.size, row.next = of, uint32(len(text)-from), number
		copy(row.text[:], text[from:end])
		row.used.Store(1)
		before := number
		if number = t.texts.number(row); number == 0 {
			t.dropText(before)
		}
		if end = from; end == 0 || number == 0 {
			return number
		}
	}
}

// dropText frees a text; 0 is none.
func (t *tables) dropText(number uint32) {
	for row := t.texts.at(number); row != nil; row = t.texts.at(number) {
		number = row.next
		row.used.Store(0)
		t.texts.give(row)
	}
}

// text returns a text and what it is of; nil for 0.
func (t *tables) text(number uint32) (of uint64, text []byte) {
	row := t.texts.at(number)
	if row == nil {
		return 0, nil
	}
	of = row.of
	for ; row != nil && len(text) < maxText; row = t.texts.at(row.next) {
		text = append(text, row.text[:min(int(row.size), len(row.text))]...)
	}
	return of, text
}

// dropTexts frees those whose number is not in use: that were written and not referred to yet, or not any more.
func (t *tables) dropTexts(used []bool) {
	for number := range used {
		for row := t.texts.at(uint32(number)); used[number] && row != nil && row.next != 0 && !used[row.next]; row = t.texts.at(row.next) {
			used[row.next] = true
		}
	}
	t.texts.each(func(row *textRow) {
		if row.used.Load() != 0 && !used[t.texts.number(row)] {
			row.used.Store(0)
			t.texts.give(row)
		}
	})
}

// counted writes down that a lookup of node was counted for a request, afterwards.
func (t *tables) counted(unique, node uint64) {
	row := &t.lookups[(t.head.lookupsMade.Add(1)-1)%lookupRows]
	row.unique.Store(0)
	row.node.Store(node)
	row.unique.Store(unique &^ uniqueResent)
}

// uncount strikes that out, before the lookup is taken back. Node 0 is any; it returns which it
// was, 0 if there is none.
func (t *tables) uncount(unique, node uint64) uint64 {
	made := t.head.lookupsMade.Load()
	for i := range min(made, lookupRows) {
		row := &t.lookups[(made-1-i)%lookupRows]
		if row.unique.Load() != unique&^uniqueResent {
			continue
		}
		if found := row.node.Load(); node == 0 || found == node {
			row.unique.Store(0)
			return found
		}
	}
	return 0
}
