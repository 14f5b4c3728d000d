//go:build linux

package control

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// The files events and wait/NAME can be polled with poll(2) and epoll(7), and so by Go's os.File. Every other file is
// always ready, which has to be answered too: after a single ENOSYS the kernel asks about no file any more
// (fuse_file_poll).

const (
	pollReadable = unix.POLLIN | 0x40 // POLLRDNORM
	// pollAlways is the answer about a file that is always ready; 0x100 is POLLWRNORM.
	pollAlways = pollReadable | unix.POLLOUT | 0x100
)

// Poll returns the events that a file of the mount is ready for. If there are none and somebody waits, the kernel is
// notified as soon as there are.
func (d *Dir) Poll(in *channel.PollIn) (ready uint32, err error) {
	name := d.waits(in.NodeId)
	if name == "" && in.NodeId != eventsID {
		return pollAlways, nil
	}
	if in.Events&pollReadable == 0 {
		return 0, nil
	}
	var notify func()
	if in.Flags&channel.PollSchedule != 0 {
		kh := in.Kh // the request's buffer is reused before the notification
		d.pollers.add(d.host.Tables, in.Fh, kh)
		notify = func() { d.host.NotifyPoll(kh) }
	}
	is := false
	if name != "" {
		is = d.turn(&in.InHeader, in.Fh, name).poll(notify)
	} else if s, err := d.stream(&in.InHeader, in.Fh); err != nil {
		return 0, err
	} else {
		is = s.poll(notify)
	}
	if is {
		return pollReadable, nil
	}
	return 0, nil
}

// pollers are the rows of file handles that are polled, by file handle. They outlive the server, so that a later one can
// make the kernel ask again.
type pollers struct {
	mu   sync.Mutex
	rows map[uint64]*handover.HandleRow // with BitPolled; Node is the kernel's number of the file
}

// add records that the kernel knows the pollers of a file handle by the number kh.
func (p *pollers) add(t *handover.Tables, fh, kh uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rows[fh] != nil {
		return
	}
	row := t.Handles.Take()
	row.Node = kh
	row.Bits.Store(handover.BitPolled)
	row.ID.Store(fh)
	p.keep(row)
}

// keep adds a row. The caller holds mu, or nothing is served yet.
func (p *pollers) keep(row *handover.HandleRow) {
	if p.rows == nil {
		p.rows = make(map[uint64]*handover.HandleRow)
	}
	p.rows[row.ID.Load()] = row
}

// has reports whether a file handle is or was polled, in this server or a dead one.
func (p *pollers) has(fh uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rows[fh] != nil
}

func (p *pollers) remove(t *handover.Tables, fh uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if row := p.rows[fh]; row != nil {
		delete(p.rows, fh)
		row.ID.Store(0)
		t.Handles.Give(row)
	}
}

// PollAgain makes the kernel ask again about every file that is polled.
func (d *Dir) PollAgain() {
	d.pollers.mu.Lock()
	defer d.pollers.mu.Unlock()
	for _, row := range d.pollers.rows {
		d.host.NotifyPoll(row.Node)
	}
}

// turn is an open wait/NAME that is polled. It waits from the first poll on, and has one turn until it is closed.
type turn struct {
	mu       sync.Mutex
	answered bool
	text     []byte
	err      error
	notify   func()              // nil if nobody polls
	reading  func([]byte, error) // answers the reader that waits; nil if none waits
	cancel   func()
}

// turn returns the turn of a file handle, and begins it if there is none.
func (d *Dir) turn(in *fuse.InHeader, fh uint64, name string) *turn {
	d.beginning.Lock()
	t, ok := opened[*turn](d, fh)
	if !ok {
		t = &turn{}
		d.open.Store(fh, t)
	}
	d.beginning.Unlock()
	if !ok {
		cancel := d.wait(in, fh, name, t.answer)
		t.mu.Lock()
		t.cancel = cancel // the file is not closed before the request ends
		t.mu.Unlock()
	}
	return t
}

func (t *turn) close() {
	t.mu.Lock()
	cancel := t.cancel
	t.mu.Unlock()
	cancel()
}

// answer records the answer of a read.
func (t *turn) answer(text []byte, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answered, t.text, t.err = true, text, err
	if t.notify != nil {
		t.notify()
	}
	if t.reading != nil {
		t.reading(text, err)
	}
	t.notify, t.reading = nil, nil
}

func (t *turn) poll(notify func()) (ready bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if notify != nil {
		t.notify = notify
	}
	return t.answered
}

// read answers once the turn has come.
func (t *turn) read(reply func([]byte, error)) (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.answered:
		reply(t.text, t.err)
	case t.reading != nil: // another thread reads the same open file
		reply(nil, lockstore.ErrInterrupted)
	default:
		t.reading = reply
		return t.interrupt
	}
	return func() {}
}

func (t *turn) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reading != nil {
		t.reading(nil, lockstore.ErrInterrupted)
		t.reading = nil
	}
}
