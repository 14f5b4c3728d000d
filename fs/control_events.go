//go:build linux

package fs

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/lockstore"
)

// maxEventBytes is how many bytes of events are kept for readers that are behind.
const maxEventBytes = 1 << 20

// wakeEvery is after how many events readers are woken though there are more to encode.
const wakeEvery = 64

// eventLog is the last events, encoded once for all who have .latchfs/events open. Each of those has its place in it, and is told
// how many it lost if that is no longer there. What happens costs the same for any number of readers: a goroutine encodes it
// and wakes them.
type eventLog struct {
	mu           sync.Mutex // taken within eventStream.mu
	lines        []eventLine
	next         uint64 // the number of the line after the last
	bytes        int    // of lines
	streams      int
	subscription *lockstore.Subscription // nil without streams
	sleeping     map[*eventStream]bool   // those to be woken
}

// eventLine is an event. It is not changed.
type eventLine struct {
	of   string // the lock's name; "" if everybody may see it
	at   time.Time
	text []byte
}

// eventStream is an open .latchfs/events.
type eventStream struct {
	fs    *FS
	to    accessor // who opened it
	began time.Time

	mu      sync.Mutex
	next    uint64              // the number of the next line
	rest    []byte              // of what was taken, for the next read
	reading func([]byte, error) // the reader that waits, nil if none does
	size    int                 // how much it takes, in bytes
	// polled notifies the kernel that there is something to read; nil if nobody polls. It need not be asked again for that once who
	// polls was told, so it is notified anew after each read (EPOLLET).
	polled func()
	armed  bool // polled is to be called
}

// newEventStream begins one of a user; restarted says that a server which has died opened it.
func newEventStream(f *FS, to accessor, restarted bool) *eventStream {
	s := &eventStream{fs: f, to: to, began: time.Now()}
	s.next = f.control.events.open(f.locks)
	if restarted {
		s.rest = encodeEvent(EventInfo{Time: s.began, Event: "restarted"})
	}
	return s
}

// open counts a stream, which begins at the line that is returned.
func (l *eventLog) open(locks *lockstore.Store) (next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams++; l.streams == 1 {
		l.subscription = locks.Subscribe()
		go l.follow(l.subscription)
	}
	return l.next
}

// close takes a stream back.
func (l *eventLog) close(s *eventStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sleeping, s)
	if l.streams--; l.streams == 0 {
		l.subscription.Close()
		l.subscription, l.lines, l.bytes = nil, nil, 0
	}
}

// size is how many streams there are.
func (l *eventLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

// follow adds what happens.
func (l *eventLog) follow(from *lockstore.Subscription) {
	told, n := uint64(0), 0
	for e := range from.Events {
		l.add(from, eventLine{e.Lock.Name, e.Time, encodeEvent(EventInfo{
			Time: e.Time, Event: string(e.Transition), Name: e.Lock.Name, Kind: string(e.Lock.Kind), Generation: e.Lock.Generation,
			Reason: string(e.Reason), Holder: ProcessInfoOf(e.Lock.Holder), By: ProcessInfoOf(e.By), Waited: e.Waited.Seconds(),
		})})
		if n++; len(from.Events) > 0 && n%wakeEvery != 0 {
			continue
		}
		if lost := from.Lost(); lost > told {
			l.add(from, lostEvents(lost-told))
			told = lost
		}
		l.wake()
	}
}

func encodeEvent(e EventInfo) []byte {
	line, err := json.Marshal(e)
	if err != nil {
		return nil // it is made of strings and numbers
	}
	return append(PrintableJSON(line), '\n')
}

func lostEvents(n uint64) eventLine {
	now := time.Now()
	return eventLine{at: now, text: encodeEvent(EventInfo{Time: now, Event: "lost", Lost: n})}
}

// add adds what came from a subscription, unless that is over.
func (l *eventLog) add(from *lockstore.Subscription, line eventLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.subscription != from {
		return
	}
	l.lines = append(l.lines, line)
	l.next++
	for l.bytes += len(line.text); l.bytes > maxEventBytes; l.lines = l.lines[1:] {
		l.bytes -= len(l.lines[0].text)
	}
}

// from are the lines there are from a number on, after so many that are not there any more.
func (l *eventLog) from(next uint64) (lines []eventLine, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.next - uint64(len(l.lines))
	if next < first {
		return l.lines, first - next
	}
	return l.lines[next-first:], 0
}

// sleep has a stream woken when there is a line of a number; false is that there is.
func (l *eventLog) sleep(s *eventStream, next uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next != next {
		return false
	}
	if l.sleeping == nil {
		l.sleeping = make(map[*eventStream]bool)
	}
	l.sleeping[s] = true
	return true
}

func (l *eventLog) wake() {
	l.mu.Lock()
	woken := l.sleeping
	l.sleeping = nil
	l.mu.Unlock()
	for s := range woken {
		s.answer()
	}
}

// fill has rest be n bytes of what the user may see, if there is as much; mu is held.
func (s *eventStream) fill(n int) {
	lines, lost := s.fs.control.events.from(s.next)
	if s.next += lost; lost > 0 {
		s.rest = append(s.rest, lostEvents(lost).text...)
	}
	for _, line := range lines {
		if len(s.rest) >= n {
			break
		}
		s.next++
		if !line.at.Before(s.began) && (line.of == "" || s.fs.sees(s.to, line.of, listsIt)) {
			s.rest = append(s.rest, line.text...)
		}
	}
}

// take takes up to n bytes of rest; mu is held.
func (s *eventStream) take(n int) []byte {
	n = min(n, len(s.rest))
	text := append([]byte(nil), s.rest[:n]...)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.rest = nil
	}
	return text
}

// answer answers the reader that waits and notifies who polls, if there is anything.
func (s *eventStream) answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reading != nil || s.armed {
		if s.fill(max(s.size, 1)); len(s.rest) == 0 {
			if s.fs.control.events.sleep(s, s.next) {
				return
			}
			continue
		}
		if s.armed {
			s.armed = false
			s.polled()
		}
		if reply := s.reading; reply != nil {
			s.reading = nil
			reply(s.take(s.size), nil)
		}
	}
}

// poll reports whether there is anything to read. If not, notify is called when there is.
func (s *eventStream) poll(notify func()) (ready bool) {
	s.mu.Lock()
	s.fill(1)
	ready = len(s.rest) > 0
	if notify != nil {
		s.polled, s.armed = notify, !ready
	}
	s.mu.Unlock()
	s.answer() // something may have happened meanwhile
	return ready
}

// read answers with what is there, or what comes next.
func (s *eventStream) read(in *fuse.ReadIn, reply func([]byte, error)) (cancel func()) {
	s.mu.Lock()
	if s.reading != nil { // another thread reads the same open file
		s.mu.Unlock()
		reply(nil, lockstore.ErrInterrupted)
		return func() {}
	}
	s.reading, s.size, s.armed = reply, int(in.Size), s.polled != nil
	s.mu.Unlock()
	s.answer()
	return s.interrupt
}

func (s *eventStream) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if reply := s.reading; reply != nil {
		s.reading = nil
		reply(nil, lockstore.ErrInterrupted)
	}
}

func (s *eventStream) close() {
	s.fs.control.events.close(s)
	s.fs.control.limits[limitEvents].give(s.to.uid)
}
