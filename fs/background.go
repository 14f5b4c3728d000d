//go:build linux

package fs

import (
	"sync"
	"time"
)

// background runs what a mount does beside answering requests. Everything ends with the mount.
type background struct {
	stop chan struct{} // closed by end
	done sync.WaitGroup

	mu sync.Mutex // keeps end from waiting while start adds to done
}

func newBackground() *background { return &background{stop: make(chan struct{})} }

// start runs do, unless end was called: the mount may be gone as soon as it is there.
func (b *background) start(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped() {
		b.done.Go(do)
	}
}

// startAfter runs do after a delay, unless end is called before.
func (b *background) startAfter(delay time.Duration, do func()) {
	b.start(func() {
		select {
		case <-b.stop:
		case <-time.After(delay):
			do()
		}
	})
}

// end tells everything to stop and waits until it has.
func (b *background) end() {
	b.mu.Lock()
	close(b.stop)
	b.mu.Unlock()
	b.done.Wait()
}

func (b *background) stopped() bool {
	select {
	case <-b.stop:
		return true
	default:
		return false
	}
}
