//go:build linux

package handover

import (
	"sync"
	"sync/atomic"
	"unsafe"
)

// Rows is a table whose rows are taken and given back.
type Rows[T any] struct {
	all  []T
	used *atomic.Uint32 // how many rows have ever been used

	mu   sync.Mutex
	free []uint32
}

// findFree collects the free rows of a table that another server used.
func (r *Rows[T]) findFree(isFree func(*T) bool) {
	for i := range min(r.used.Load(), uint32(len(r.all))) {
		if isFree(&r.all[i]) {
			r.free = append(r.free, i)
		}
	}
}

// Each calls do with every row that may be in use.
func (r *Rows[T]) Each(do func(*T)) {
	for i := range min(r.used.Load(), uint32(len(r.all))) {
		do(&r.all[i])
	}
}

// Take returns a row that is free and zero. If the table is full, the row is in the memory of this server and does not
// outlive it.
func (r *Rows[T]) Take() *T {
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

// number returns the number of a row, which is its index plus 1. It returns 0 for a row that is not in the table.
func (r *Rows[T]) number(row *T) uint32 {
	var zero T
	offset := uintptr(unsafe.Pointer(row)) - uintptr(unsafe.Pointer(&r.all[0]))
	if i := offset / unsafe.Sizeof(zero); i < uintptr(len(r.all)) {
		return uint32(i) + 1
	}
	return 0
}

// at returns the row with a number, nil for 0.
func (r *Rows[T]) at(number uint32) *T {
	if number == 0 || int(number) > len(r.all) {
		return nil
	}
	return &r.all[number-1]
}

// Give makes a row available again. The caller has marked it as free.
func (r *Rows[T]) Give(row *T) {
	number := r.number(row)
	if number == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, number-1)
}

// Size returns how many rows have ever been used.
func (r *Rows[T]) Size() int { return int(min(r.used.Load(), uint32(len(r.all)))) }
