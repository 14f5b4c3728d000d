package lockstore

import (
	"sync"
	"time"
)

// answers caches what was asked of the system a moment ago: a listing asks the same for every lock.
type answers[K comparable, V any] struct {
	lifetime time.Duration
	most     int // how many are cached; then all are dropped

	mu    sync.Mutex
	known map[K]answer[V]
}

type answer[V any] struct {
	value V
	at    time.Time // just before the system was asked
}

// get returns the cached answer for key, or, if that is too old or not good enough, the result of ask.
func (a *answers[K, V]) get(key K, goodEnough func(at time.Time) bool, ask func() V) V {
	now := time.Now()
	a.mu.Lock()
	known, ok := a.known[key]
	a.mu.Unlock()
	if ok && now.Sub(known.at) < a.lifetime && goodEnough(known.at) {
		return known.value
	}
	value := ask()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known == nil || len(a.known) >= a.most {
		a.known = make(map[K]answer[V])
	}
	a.known[key] = answer[V]{value, now}
	return value
}
