package bootid

import (
	"errors"
	"sync"
	"time"
)

// otherNamespaces caches the pids that processes have in pid namespaces other than this process's
// own, because a lookup scans every process.
type otherNamespaces struct {
	mu    sync.Mutex
	taken time.Time // time of the scan, by the wall clock, which file times use too
	pids  map[int]bool
}

// otherNamespacesLifetime is the lifetime of a scan. A process that has ended since the scan
// counts as running, which keeps a lock unknown for that time.
const otherNamespacesLifetime = time.Second

// InOtherNamespace implements [System]. Outside the first pid namespace of the machine, some processes are
// invisible, so the result is always true. A process that started after the last scan cannot have run
// before it.
func (h *Host) InOtherNamespace(pid int, at time.Time) bool {
	if !h.namespace.Initial() {
		return true
	}
	o := &h.others
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); o.pids == nil || o.taken.Before(at) || now.Sub(o.taken) > otherNamespacesLifetime || now.Before(o.taken) {
		o.taken, o.pids = now, make(map[int]bool)
		// If /proc cannot be listed, the scan is empty.
		_ = h.eachProcess(func(candidate int) bool {
			if pidNamespace(candidate) == h.namespace.Inode {
				return true
			}
			if status, err := readStatus(candidate); err == nil && len(status.nspids) > 1 {
				o.pids[status.nspid()] = true
			}
			return true
		})
	}
	return o.pids[pid]
}

// NamespaceEnded implements [System].
func (h *Host) NamespaceEnded(p Process) bool {
	if p.PIDNamespace == 0 || p.PIDNamespace == h.namespace.Inode || h.blind {
		return false
	}
	ended := true
	err := h.eachProcess(func(candidate int) bool {
		namespace := pidNamespace(candidate)
		if namespace == 0 {
			_, err := readStat(candidate)
			ended = errors.Is(err, ErrNoProcess) // a hidden process may be in the namespace
		} else {
			ended = namespace != p.PIDNamespace
		}
		return ended
	})
	return err == nil && ended
}
