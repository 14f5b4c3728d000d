//go:build linux

package fs

import (
	"errors"
	"fmt"
	"log"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"

	"latchfs/fs/backing"
	"latchfs/fs/channel"
	"latchfs/fs/mountpoint"
)

// maxBackground is how many requests for which no caller waits the kernel sends before it holds others back. A RELEASE
// is such a request: if the limit is low, closes queue up and files stay open.
const maxBackground = 512

// Mount is an FS that is mounted and served.
type Mount struct {
	dir  string
	fs   *FS
	done chan struct{}
}

// Serve mounts f and serves it until it is unmounted. With debug every request is logged.
func (f *FS) Serve(o mountpoint.Options, debug bool) (*Mount, error) {
	options := fuse.MountOptions{
		AllowOther:    o.AllowOther,
		FsName:        o.Dir,
		Name:          mountpoint.Subtype,
		MaxWrite:      channel.MaxWrite,
		MaxBackground: maxBackground,
		EnableAcl:     true,
		// DONT_MASK: a default ACL replaces the umask. READDIRPLUS_AUTO: a process that lists a directory again is not
		// sent all attributes again.
		ExtraCapabilities: fuse.CAP_DONT_MASK | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
			fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_READDIRPLUS_AUTO,
		Options: []string{"default_permissions"},
		Debug:   debug,
		Logger:  log.New(logWriter{f.log}, "", 0),
	}
	m := &Mount{dir: o.Dir, fs: f, done: make(chan struct{})}
	var err error
	if f.Resumed() {
		err = m.resume(options)
	} else {
		err = m.begin(o, options)
	}
	if err != nil {
		return nil, err
	}
	b := f.background
	if !f.Tables.Head.Scanned.Load() {
		b.start(initialScan{f, f.started, b.stopped}.run)
	}
	b.start(func() { f.notifier.Run(b.stop) })
	b.start(func() { f.locks.Verify(b.stopped) })
	return m, nil
}

// resume goes on with the mount of a dead server.
func (m *Mount) resume(options fuse.MountOptions) error {
	f := m.fs
	f.SettlePlaces()
	f.joinLocks()
	f.Tables.Watches.CloseUnclaimed()
	if err := f.connect(options); err != nil {
		return err
	}
	// This comes before the first request is read: a request that was read would come twice.
	if err := f.Notify(channel.NotifyResend); err != nil {
		return fmt.Errorf("have the kernel send requests again: %w", err)
	}
	f.control.PollAgain()
	f.background.startAfter(backing.SweepDelay, func() { f.Sweep(f.background.stopped) })
	m.serve()
	return nil
}

// begin makes the mount and serves it before it is attached.
func (m *Mount) begin(o mountpoint.Options, options fuse.MountOptions) error {
	f := m.fs
	device, attach, err := mountpoint.Create(o, f.Root.FD)
	if err != nil {
		return err
	}
	f.SetDevice(device)
	if err := f.connect(options); err != nil {
		return err
	}
	if err := f.becomePermanent(); err != nil {
		f.bound = err.Error()
		f.log.WithError(err).Info("the mount will not outlive its server: " +
			"should that die, requests in flight fail and the mount is replaced")
	}
	m.serve()
	return attach()
}

// becomePermanent makes the mount outlive this server, if there is a keeper to start another one.
func (f *FS) becomePermanent() error {
	switch {
	case f.Keeper == 0:
		return errors.New("there is no keeper")
	case f.served.Load().Offers()&fuse.CAP_HAS_RESEND == 0:
		return errors.New("the kernel cannot send requests again (Linux 6.9)")
	}
	return f.Outlive()
}

// serve answers requests until the connection ends.
func (m *Mount) serve() {
	go func() {
		defer close(m.done)
		if err := m.fs.served.Load().Serve(); err != nil {
			m.fs.log.WithError(err).Error("cannot serve")
		}
		m.fs.background.end()
	}()
}

// Unmount takes the mount away. It returns unix.EBUSY if the mount is in use, unless lazily: then the mount is hidden at
// once and ends with its last user.
func (m *Mount) Unmount(lazily bool) error { return mountpoint.Unmount(m.dir, lazily) }

// Done is closed when nothing is served any more.
func (m *Mount) Done() <-chan struct{} { return m.done }

// logWriter receives the log of go-fuse.
type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.WithField("from", "go-fuse").Debug(string(line))
	return len(line), nil
}
