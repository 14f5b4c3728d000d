package lockstore

import (
	"sync"
	"time"
)

// answers remembers what was asked of the system a moment ago: a listing asks the same for
// every lock there is.
type answers[K comparable, V any] struct {
	lifetime time.Duration
	most     int // how many are remembered; then all are forgotten

	mu    sync.Mutex
	known map[K]answer[V]
}

type answer[V any] struct {
	value V
	at    time.Time // just before it was asked for
}

// get returns what is known of key, or what ask says, if that is too old or not good enough.
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
