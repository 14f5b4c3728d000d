//go:build linux

package control

import (
	"encoding/json"
	"sync"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"latchfs/fs/access"
	"latchfs/lockstore"
)

// maxEventBytes bounds the events that are kept for slow readers, in bytes.
const maxEventBytes = 1 << 20

// wakeEvery is the number of events after which readers are woken although there are more events to encode.
const wakeEvery = 64

// eventLog holds the latest events, encoded once for all open streams. Each stream has a position in it; a stream whose
// position was dropped is told how many events it lost. A lock operation costs the same for any number of readers: a
// goroutine encodes its event and wakes them.
type eventLog struct {
	mu           sync.Mutex // may be locked while eventStream.mu is held
	lines        []eventLine
	next         uint64 // the number of the line after the last one
	bytes        int    // the total length of lines
	streams      int
	subscription *lockstore.Subscription // nil without streams
	sleeping     map[*eventStream]bool   // the streams to wake at the next line
}

// eventLine is an encoded event. It is immutable.
type eventLine struct {
	of   string // the lock's name; "" if everybody may see it
	at   time.Time
	text []byte
}

// eventStream is an open .latchfs/events.
type eventStream struct {
	dir   *Dir
	to    access.User // who opened it
	began time.Time

	mu      sync.Mutex
	next    uint64              // the number of the next line
	rest    []byte              // lines for the next read
	reading func([]byte, error) // answers the reader that waits; nil if none waits
	size    int                 // the most that the reader takes, in bytes
	// polled tells the kernel that there is something to read; nil if nobody polls. The kernel may not ask again after
	// that, so it is told again after each read (EPOLLET).
	polled func()
	armed  bool // polled is to be called
}

// openStream opens the stream of a file handle for a user. Restarted says that the handle was opened by a server that
// has died.
func (d *Dir) openStream(fh uint64, to access.User, restarted bool) (*eventStream, error) {
	if err := d.limits[limitEvents].take(to.UID, d.host.MaxWaitingPerUser); err != nil {
		return nil, err
	}
	s := &eventStream{dir: d, to: to, began: time.Now()}
	s.next = d.events.open(d.host.Locks)
	if restarted {
		s.rest = encodeEvent(EventInfo{Time: s.began, Event: "restarted"})
	}
	d.open.Store(fh, s)
	return s, nil
}

// stream returns the stream of a file handle. If a dead server opened the handle, it opens the stream again.
func (d *Dir) stream(in *fuse.InHeader, fh uint64) (*eventStream, error) {
	d.beginning.Lock()
	defer d.beginning.Unlock()
	if s, ok := opened[*eventStream](d, fh); ok {
		return s, nil
	}
	return d.openStream(fh, d.openedFor(in, fh), true)
}

// open counts a stream and returns the number of its first line.
func (l *eventLog) open(locks Locks) (next uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams++; l.streams == 1 {
		l.subscription = locks.Subscribe()
		go l.follow(l.subscription)
	}
	return l.next
}

// close counts a stream no more.
func (l *eventLog) close(s *eventStream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sleeping, s)
	if l.streams--; l.streams == 0 {
		l.subscription.Close()
		l.subscription, l.lines, l.bytes = nil, nil, 0
	}
}

// size returns the number of open streams.
func (l *eventLog) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

// follow adds the events of a subscription until it is closed.
func (l *eventLog) follow(from *lockstore.Subscription) {
	reported, n := uint64(0), 0
	for e := range from.Events {
		l.add(from, eventLine{e.Lock.Name, e.Time, encodeEvent(EventInfo{
			Time: e.Time, Event: string(e.Transition), Name: e.Lock.Name, Kind: string(e.Lock.Kind),
			Generation: e.Lock.Generation,
			Reason:     string(e.Reason), Holder: ProcessInfoOf(e.Lock.Holder), By: ProcessInfoOf(e.By),
			Waited: e.Waited.Seconds(),
		})})
		if n++; len(from.Events) > 0 && n%wakeEvery != 0 {
			continue
		}
		if lost := from.Lost(); lost > reported {
			l.add(from, lostEvents(lost-reported))
			reported = lost
		}
		l.wake()
	}
}

func encodeEvent(e EventInfo) []byte {
	line, err := json.Marshal(e)
	if err != nil {
		return nil // cannot happen: it has strings, numbers and times
	}
	return append(PrintableJSON(line), '\n')
}

func lostEvents(n uint64) eventLine {
	now := time.Now()
	return eventLine{at: now, text: encodeEvent(EventInfo{Time: now, Event: "lost", Lost: n})}
}

// add adds a line of a subscription, unless the subscription is closed.
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

// from returns the lines from a number on, and how many of them were dropped.
func (l *eventLog) from(next uint64) (lines []eventLine, lost uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.next - uint64(len(l.lines))
	if next < first {
		return l.lines, first - next
	}
	return l.lines[next-first:], 0
}

// sleep arranges for a stream to be woken at the line with a number. It reports false if that line is already there.
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

// fill moves lines that the user may see to rest, until it has n bytes or there are no more lines. The caller holds mu.
func (s *eventStream) fill(n int) {
	lines, lost := s.dir.events.from(s.next)
	if s.next += lost; lost > 0 {
		s.rest = append(s.rest, lostEvents(lost).text...)
	}
	for _, line := range lines {
		if len(s.rest) >= n {
			break
		}
		s.next++
		if !line.at.Before(s.began) && (line.of == "" || s.dir.host.Access.Lists(s.to, line.of)) {
			s.rest = append(s.rest, line.text...)
		}
	}
}

// take removes and returns up to n bytes of rest. The caller holds mu.
func (s *eventStream) take(n int) []byte {
	n = min(n, len(s.rest))
	text := append([]byte(nil), s.rest[:n]...)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.rest = nil
	}
	return text
}

// answer answers the reader that waits and notifies the kernel, if there is anything to read.
func (s *eventStream) answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.reading != nil || s.armed {
		if s.fill(max(s.size, 1)); len(s.rest) == 0 {
			if s.dir.events.sleep(s, s.next) {
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

// poll reports whether there is anything to read. If not, notify is called as soon as there is.
func (s *eventStream) poll(notify func()) (ready bool) {
	s.mu.Lock()
	s.fill(1)
	ready = len(s.rest) > 0
	if notify != nil {
		s.polled, s.armed = notify, !ready
	}
	s.mu.Unlock()
	s.answer() // a line may have been added since fill
	return ready
}

// read answers with the lines that are there, or else with the next ones.
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
	s.dir.events.close(s)
	s.dir.limits[limitEvents].give(s.to.UID)
}
