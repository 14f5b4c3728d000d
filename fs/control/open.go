//go:build linux

package control

import (
	"errors"
	"iter"
	"path"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/lockstore"
)

// openFile is what Dir.open has for a file handle: a *text, an *eventStream or a *turn. A later server does not know the
// handles of a dead one, and opens their files when they are used.
type openFile interface{ close() }

// opened returns the open file of a handle. It reports false if there is none of this type.
func opened[T openFile](d *Dir, fh uint64) (T, bool) {
	file, _ := d.open.Load(fh)
	of, ok := file.(T)
	return of, ok
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
		out.Fh = d.nextHandle()
		// The reader is checked again at read(2).
		return d.host.Access.MayEnter(&in.InHeader, path.Dir(name))
	}
	for taken := true; taken; _, taken = d.open.Load(out.Fh) {
		out.Fh = openedBy(in.Uid, d.nextHandle())
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

// openedFor returns the user who opened a file handle. The groups are known only if that is also the caller of the
// request.
func (d *Dir) openedFor(in *fuse.InHeader, fh uint64) access.User {
	if uid := opener(fh); uid != in.Uid {
		return access.User{UID: uid}
	}
	return d.host.Access.Caller(in)
}

// openText opens the text of a node for the user in a file handle.
func (d *Dir) openText(in *fuse.InHeader, fh uint64) (*text, error) {
	pieces, err := d.pieces(in.NodeId, d.openedFor(in, fh))
	if err != nil {
		return nil, err
	}
	t := &text{pieces: pieces}
	d.open.Store(fh, t)
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
	t, ok := opened[*text](d, in.Fh)
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
		if _, polled := opened[*turn](d, in.Fh); polled || d.pollers.has(in.Fh) {
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
	if file, ok := d.open.LoadAndDelete(fh); ok {
		file.(openFile).close()
	}
	d.pollers.remove(d.host.Tables, fh)
}
