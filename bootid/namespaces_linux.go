package bootid

import (
	"errors"
	"sync"
	"time"
)

// otherNamespaces remembers which numbers processes have in pid namespaces other than our
// own: finding out takes a look at every process.
type otherNamespaces struct {
	mu    sync.Mutex
	taken time.Time // when it was looked, by the wall clock that file times have too
	pids  map[int]bool
}

// otherNamespacesLifetime is how long a look is good for. A process that has ended since is
// taken for running, which makes a lock unknown for that long.
const otherNamespacesLifetime = time.Second

// InOtherNamespace implements [System]. In any namespace but the machine's first one there
// are processes out of sight, so there it may always be. What was started after the last look
// cannot have run before it.
func (h *Host) InOtherNamespace(pid int, at time.Time) bool {
	if !h.namespace.Initial() {
		return true
	}
	o := &h.others
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); o.pids == nil || o.taken.Before(at) || now.Sub(o.taken) > otherNamespacesLifetime || now.Before(o.taken) {
		o.taken, o.pids = now, make(map[int]bool)
		// What cannot be listed is not seen.
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
			ended = errors.Is(err, ErrNoProcess) // or it may be in there
		} else {
			ended = namespace != p.PIDNamespace
		}
		return ended
	})
	return err == nil && ended
}
