//go:build linux

package control

import (
	"errors"
	"iter"
	"path"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/lockstore"
)

// openFile is a *text, an *eventStream or a *turn.
type openFile interface{ close() }

// openFiles are open control files by their file handles. A later server does not know them: it opens them again when
// they are used.
type openFiles struct {
	mu   sync.RWMutex
	byFH map[uint64]openFile
}

func (t *openFiles) add(fh uint64, file openFile) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byFH == nil {
		t.byFH = make(map[uint64]openFile)
	}
	t.byFH[fh] = file
}

func (t *openFiles) get(fh uint64) openFile {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byFH[fh]
}

func (t *openFiles) remove(fh uint64) openFile {
	t.mu.Lock()
	defer t.mu.Unlock()
	file := t.byFH[fh]
	delete(t.byFH, fh)
	return file
}

// Open opens a file.
func (d *Dir) Open(in *fuse.OpenIn, out *fuse.OpenOut) error {
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	if in.NodeId == ctlID {
		out.Fh = openedBy(in.Uid, 0)
		return nil
	}
	if name := d.waits(in.NodeId); name != "" {
		// Handles grow, which tells those who wait for the same name which of them came first.
		out.Fh = d.host.Memory.NextHandle()
		// The reader is checked again at read(2).
		return d.host.Access.MayEnter(&in.InHeader, path.Dir(name))
	}
	out.Fh = openedBy(in.Uid, d.host.Memory.NextHandle())
	for d.open.get(out.Fh) != nil {
		out.Fh = openedBy(in.Uid, d.host.Memory.NextHandle())
	}
	if in.NodeId == eventsID {
		out.OpenFlags |= fuse.FOPEN_STREAM
		_, err := d.openStream(out.Fh, d.host.Access.Caller(&in.InHeader), false)
		return err
	}
	_, err := d.openText(&in.InHeader, out.Fh)
	return err
}

// openedBy returns a file handle that contains the user who opened it, so that a later server knows the user too, and
// the lower 32 bits of a number.
func openedBy(uid uint32, number uint64) (fh uint64) { return uint64(uid+1)<<32 | number&(1<<32-1) }

// opener returns the user in a file handle of openedBy, and (uid_t)-1, which is no user, for any other handle.
func opener(fh uint64) (uid uint32) { return uint32(fh>>32) - 1 }

// opened returns the user who opened a file handle. The groups are known only if that is also the caller of the request.
func (d *Dir) opened(in *fuse.InHeader, fh uint64) access.User {
	if uid := opener(fh); uid != in.Uid {
		return access.User{UID: uid}
	}
	return d.host.Access.Caller(in)
}

// openText opens the text of a node for the user in a file handle.
func (d *Dir) openText(in *fuse.InHeader, fh uint64) (*text, error) {
	pieces, err := d.pieces(in.NodeId, d.opened(in, fh))
	if err != nil {
		return nil, err
	}
	t := &text{pieces: pieces}
	d.open.add(fh, t)
	return t, nil
}

// pieces returns the text of a node for a user, as of now.
func (d *Dir) pieces(id uint64, to access.User) (iter.Seq[[]byte], error) {
	if n := d.nodes.get(id); n != nil {
		return d.lock(n.path, to)
	}
	for _, file := range files {
		if file.id == id && file.text != nil {
			return file.text(d, to)
		}
	}
	return nil, unix.EBADF
}

// Read reads the text of a file.
func (d *Dir) Read(in *fuse.ReadIn, buf []byte) ([]byte, error) {
	t, ok := d.open.get(in.Fh).(*text)
	if !ok {
		if d.waits(in.NodeId) != "" {
			return nil, nil // ReadLater has answered the read at offset 0
		}
		// A dead server opened the file. The text as of now takes the place of the earlier one.
		var err error
		if t, err = d.openText(&in.InHeader, in.Fh); err != nil {
			return nil, err
		}
	}
	return t.read(in.Offset, buf), nil
}

// ReadLater carries out a read of events or wait/NAME, with one call of reply at once or later. It returns how to give
// the read up, and nil for a read of any other file. With O_NONBLOCK a read that would have to wait fails with EAGAIN.
func (d *Dir) ReadLater(in *fuse.ReadIn, reply func([]byte, error)) (cancel func()) {
	nonblocking, answer := in.Flags&unix.O_NONBLOCK != 0, reply
	if nonblocking {
		reply = func(text []byte, err error) {
			if errors.Is(err, lockstore.ErrInterrupted) {
				err = unix.EAGAIN
			}
			answer(text, err)
		}
	}
	switch name := d.waits(in.NodeId); {
	case name != "" && in.Offset == 0:
		if d.open.get(in.Fh) != nil || d.pollers.has(in.Fh) {
			cancel = d.turn(&in.InHeader, in.Fh, name).read(reply)
		} else {
			cancel = d.wait(&in.InHeader, in.Fh, name, reply)
		}
	case in.NodeId == eventsID:
		s, err := d.stream(&in.InHeader, in.Fh)
		if err != nil {
			reply(nil, err)
			return func() {}
		}
		cancel = s.read(in, reply)
	default:
		return nil
	}
	if nonblocking {
		cancel()
	}
	return cancel
}

// Release closes a file handle.
func (d *Dir) Release(fh uint64) {
	if file := d.open.remove(fh); file != nil {
		file.close()
	}
	d.pollers.remove(fh)
}
