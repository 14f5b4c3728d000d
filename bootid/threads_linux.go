package bootid

import (
	"container/list"
	"errors"
	"os"
	"strconv"
	"sync"
)

// threadCacheSize is the largest number of descriptors that the thread cache keeps open.
const threadCacheSize = 256

// threadCache maps a thread id to the process of the thread. It evicts the least recently used entry. The
// package comment explains why an entry cannot name a wrong process.
type threadCache struct {
	mu      sync.Mutex            // guards all fields; not held during reads from /proc
	entries map[int]*list.Element // by thread id; values are *threadEntry
	recent  list.List             // most recently used in front
	closed  bool
}

type threadEntry struct {
	tid     int
	comm    *os.File // /proc/TID/comm, which the kernel binds to the thread
	name    [16]byte // content of comm when process was read
	length  int      // of name
	process Process
}

// Identify returns the process that the thread tid belongs to. The caller passes
// the pid of a FUSE request, whose thread stays blocked in its system call.
// Identify returns ErrNoProcess if tid is 0 (the kernel cannot name the caller here) or the thread has ended.
func (h *Host) Identify(tid int) (Process, error) {
	if tid <= 0 || h.blind {
		return Process{}, ErrNoProcess
	}
	if entry := h.threads.get(tid); entry != nil {
		// An exec changes the name, never the pid or the start time. If the name has changed, describe the thread again.
		if entry.hasName() {
			return entry.process, nil
		}
	}
	entry, err := h.describeThread(tid)
	if err != nil {
		return Process{}, err
	}
	h.threads.put(entry)
	return entry.process, nil
}

// describeThread opens comm first and reads it last. If the read succeeds, the thread still exists, and
// everything that was read by number in between belongs to the same thread.
func (h *Host) describeThread(tid int) (*threadEntry, error) {
	comm, err := os.Open("/proc/" + strconv.Itoa(tid) + "/comm")
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNoProcess
	} else if err != nil {
		return nil, err
	}
	entry := &threadEntry{tid: tid, comm: comm}
	status, err := readStatus(tid)
	if err == nil {
		entry.process, err = h.describe(tid, status)
	}
	if err == nil {
		entry.length, err = comm.ReadAt(entry.name[:], 0)
		if entry.length > 0 {
			err = nil
		}
	}
	if err != nil {
		comm.Close()
		return nil, err
	}
	return entry, nil
}

// hasName reports whether the thread still runs under the same name. It reads exactly the length of the name:
// a longer buffer would make File.ReadAt call pread again at the end of the file.
func (e *threadEntry) hasName() bool {
	var name [16]byte
	n, _ := e.comm.ReadAt(name[:e.length], 0)
	return n == e.length && name == e.name
}

func (c *threadCache) get(tid int) *threadEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.entries[tid]
	if element == nil {
		return nil
	}
	c.recent.MoveToFront(element)
	return element.Value.(*threadEntry)
}

func (c *threadCache) put(entry *threadEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		entry.comm.Close()
		return
	}
	if c.entries == nil {
		c.entries = make(map[int]*list.Element)
	}
	if old := c.entries[entry.tid]; old != nil {
		c.drop(old)
	}
	c.entries[entry.tid] = c.recent.PushFront(entry)
	if c.recent.Len() > threadCacheSize {
		c.drop(c.recent.Back())
	}
}

// drop removes an entry and closes its file. The file stays open until a pread in progress
// returns (os.File counts its users).
func (c *threadCache) drop(element *list.Element) {
	entry := c.recent.Remove(element).(*threadEntry)
	delete(c.entries, entry.tid)
	entry.comm.Close()
}

func (c *threadCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for c.recent.Len() > 0 {
		c.drop(c.recent.Front())
	}
}
