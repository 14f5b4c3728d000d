//go:build linux

package fs

import (
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// The files events and wait/NAME can be polled: poll(2), epoll(7), and with them Go's os.File. Every other file is ready at all times. It has
// to be said of those too: a single ENOSYS, and the kernel asks of no file any more (fuse_file_poll).

// pollIn and pollOut are struct fuse_poll_in, after its header, and struct fuse_poll_out of fuse.h.
type (
	pollIn struct {
		fuse.InHeader
		Fh, Kh        uint64
		Flags, Events uint32
	}
	pollOut struct{ Revents, Padding uint32 }
)

const (
	// pollSchedule is FUSE_POLL_SCHEDULE_NOTIFY: somebody waits for the notification.
	pollSchedule = 1
	pollReadable = unix.POLLIN | 0x40                  // POLLRDNORM
	pollAlways   = pollReadable | unix.POLLOUT | 0x100 // POLLWRNORM
)

// poll says what a file is ready for.
func (d *device) poll(request, out []byte) {
	in, ok := requestAs[pollIn](request)
	if !ok {
		d.answer(request, out)
		return
	}
	polled := answerAs[pollOut](out)
	code := guard{d.fs}.do(&in.InHeader, func() (code fuse.Status) {
		polled.Revents, code = d.fs.control.poll(in)
		return code
	})
	d.write(out[:answered(out, &in.InHeader, polled, code)])
}

// poll is what a file is ready for. If that is nothing, and somebody waits for it, the kernel is notified when it is.
func (c *control) poll(in *pollIn) (ready uint32, code fuse.Status) {
	name := c.waits(in.NodeId)
	if name == "" && in.NodeId != controlEvents {
		return pollAlways, fuse.OK
	}
	if in.Events&pollReadable == 0 {
		return 0, fuse.OK
	}
	var notify func()
	if in.Flags&pollSchedule != 0 {
		kh := in.Kh // the request is not there any more when it is notified
		c.pollers.add(c.fs.Tables, in.Fh, kh)
		notify = func() { _ = c.fs.Notify(backing.NotifyPoll, kh) } // it fails if the mount is gone
	}
	is := false
	if name != "" {
		is = c.turn(&in.InHeader, in.Fh, name).poll(notify)
	} else if s, err := c.stream(&in.InHeader, in.Fh); err != nil {
		return 0, status(err)
	} else {
		is = s.poll(notify)
	}
	if is {
		return pollReadable, fuse.OK
	}
	return 0, fuse.OK
}

// pollers are the rows of what is polled, by file handle, so that a later server can have the kernel ask again.
type pollers struct {
	mu   sync.Mutex
	rows map[uint64]*handover.HandleRow
}

// add writes down by which number the kernel knows the pollers of a handle.
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

// keep takes a row over; mu is held, or nothing is served yet.
func (p *pollers) keep(row *handover.HandleRow) {
	if p.rows == nil {
		p.rows = make(map[uint64]*handover.HandleRow)
	}
	p.rows[row.ID.Load()] = row
}

// has reports whether a handle is polled, or was when another server died.
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

// again has the kernel ask again for all of them.
func (p *pollers) again(f *FS) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, row := range p.rows {
		_ = f.Notify(backing.NotifyPoll, row.Node)
	}
}

// polledTurn is an open wait/NAME that is polled. It waits from the first poll on, and has one turn until it is closed.
type polledTurn struct {
	mu       sync.Mutex
	answered bool
	text     []byte
	err      error
	notify   func()              // nil if nobody waits for it
	reading  func([]byte, error) // nil if nobody does
	cancel   func()
}

// turn is the one of a handle.
func (c *control) turn(in *fuse.InHeader, fh uint64, name string) *polledTurn {
	c.beginning.Lock()
	t := c.turns.Get(fh)
	begins := t == nil
	if begins {
		t = &polledTurn{}
		c.turns.Add(fh, t)
	}
	c.beginning.Unlock()
	if begins {
		t.cancel = c.wait(in, fh, name, t.answer) // before the file can be closed
	}
	return t
}

// answer keeps what a reader is to be answered.
func (t *polledTurn) answer(text []byte, err error) {
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

func (t *polledTurn) poll(notify func()) (ready bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if notify != nil {
		t.notify = notify
	}
	return t.answered
}

// read answers with what there is, or what comes.
func (t *polledTurn) read(reply func([]byte, error)) (cancel func()) {
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

func (t *polledTurn) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reading != nil {
		t.reading(nil, lockstore.ErrInterrupted)
		t.reading = nil
	}
}
