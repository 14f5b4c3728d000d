package fs

import (
	"hash/maphash"
	"sync/atomic"
)

// usualLocks remembers names whose last file was a lock when it was removed. The next file there is most likely a
// lock too, and not data. Then it does not matter whether its maker closed it before it was killed, and the kernel
// need not announce the close, which saves a request. If two names share a place, the later one is remembered.
type usualLocks struct {
	seed   maphash.Seed
	places [4096]atomic.Uint64
}

func (u *usualLocks) place(path string) (at *atomic.Uint64, hash uint64) {
	hash = maphash.String(u.seed, path) | 1 // 0 is an empty place
	return &u.places[hash>>1%uint64(len(u.places))], hash
}

func (u *usualLocks) has(path string) bool {
	at, hash := u.place(path)
	return at.Load() == hash
}

// set records whether the file that was removed from path was a lock.
func (u *usualLocks) set(path string, lock bool) {
	at, hash := u.place(path)
	if lock {
		at.Store(hash)
	} else {
		at.CompareAndSwap(hash, 0)
	}
}
