//go:build linux

package fs

import (
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
	"latchfs/lockstore"
)

// Subtype makes the mount's type "fuse.latchfs" in mountinfo (proc_pid_mountinfo(5)).
const Subtype = "latchfs"

const (
	fuseDevice = "/dev/fuse"
	// maxBackground is how many requests for which no caller waits the kernel sends before it holds others back.
	maxBackground = 512
)

var (
	// ErrNoFUSE: the kernel offers no FUSE here.
	ErrNoFUSE = errors.New("no FUSE here")
	// ErrNoHelper: only root mounts without fusermount3, of the package fuse3.
	ErrNoHelper = errors.New("fusermount3 is needed by users other than root: install fuse3")
)

// MountOptions say how an FS is mounted.
type MountOptions struct {
	// Dir is the absolute path of the directory, without symbolic links.
	Dir string
	// OverDead says that a mount whose server has died covers Dir. It is replaced,
	// which takes root.
	OverDead bool
	// AllowOther lets users other than the one who mounts in. The permissions of
	// the files apply to all.
	AllowOther bool
	// Restrictions are what the mount has beside those of the one beneath.
	Restrictions Restrictions
	// Debug logs every request.
	Debug bool
}

// Restrictions are those of mount(8) of the same names.
type Restrictions struct{ NoSuid, NoDev, NoExec, NoAtime bool }

// each yields the names of those that are set, and their attributes for fsmount(2).
func (r Restrictions) each(yield func(name string, attribute int) bool) {
	for _, one := range []struct {
		is        bool
		name      string
		attribute int
	}{
		{r.NoSuid, "nosuid", unix.MOUNT_ATTR_NOSUID}, {r.NoDev, "nodev", unix.MOUNT_ATTR_NODEV},
		{r.NoExec, "noexec", unix.MOUNT_ATTR_NOEXEC}, {r.NoAtime, "noatime", unix.MOUNT_ATTR_NOATIME},
	} {
		if one.is && !yield(one.name, one.attribute) {
			return
		}
	}
}

// Mount is an FS that is mounted and served.
type Mount struct {
	dir    string
	fs     *FS
	direct bool // with mount(2) rather than fusermount3
	done   chan struct{}
}

// Probe says whether FUSE can be used: ErrNoFUSE, ErrNoHelper, or what the system says.
func Probe() error {
	file, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("%w: %w", ErrNoFUSE, err)
	case err != nil:
		return err
	}
	file.Close()
	if os.Geteuid() != 0 {
		if _, err := helper(); err != nil {
			return ErrNoHelper
		}
	}
	return nil
}

func helper() (string, error) { return exec.LookPath("fusermount3") }

// Serve mounts f over o.Dir and serves it until it is unmounted.
func (f *FS) Serve(locks *lockstore.Store, o MountOptions) (*Mount, error) {
	f.locks, f.dir = locks, o.Dir
	f.control = f.newControl()
	options := fuse.MountOptions{
		AllowOther: o.AllowOther,
		FsName:     o.Dir,
		Name:       Subtype,
		MaxWrite:   channel.MaxWrite,
		// A RELEASE is one: where few are let through, files stay open, of who makes many.
		MaxBackground: maxBackground,
		EnableAcl:     true,
		// DONT_MASK: a default ACL replaces the umask. READDIRPLUS_AUTO: who lists a directory again is not told all attributes again.
		ExtraCapabilities: fuse.CAP_DONT_MASK | fuse.CAP_ATOMIC_O_TRUNC | fuse.CAP_DIRECT_IO_ALLOW_MMAP | fuse.CAP_HANDLE_KILLPRIV_V2 |
			fuse.CAP_READDIRPLUS_AUTO,
		Options: []string{"default_permissions"},
		Debug:   o.Debug,
		Logger:  log.New(logWriter{f.log}, "", 0),
	}
	m := &Mount{dir: o.Dir, fs: f, direct: f.credentials.root, done: make(chan struct{})}
	var err error
	switch {
	case f.Resumed():
		err = m.resume(options)
	case m.direct:
		err = m.mountDirectly(o, options)
	default:
		err = m.mountWithHelper(o, options)
	}
	if err != nil {
		return nil, err
	}
	if !f.tables.head.scanned.Load() {
		f.initialScan.start()
	}
	f.initialScan.begin(func() { f.notifier.run(f.initialScan.stop) })
	f.initialScan.begin(func() { f.locks.Verify(f.initialScan.stopped) })
	return m, nil
}

// resume goes on with the mount of a dead server.
func (m *Mount) resume(options fuse.MountOptions) error {
	m.fs.settlePlaces()
	m.fs.joinLocks()
	m.fs.closeInherited()
	if err := m.fs.connect(options); err != nil {
		return err
	}
	// Before the first is read here, which would come twice.
	if err := m.fs.notify(channel.NotifyResend); err != nil {
		return fmt.Errorf("have the kernel send requests again: %w", err)
	}
	m.fs.control.PollAgain()
	found := m.fs.found
	m.fs.found = nil
	m.fs.initialScan.later(sweepDelay, func() { m.fs.sweep(found, m.fs.initialScan.stopped) })
	m.serve()
	return nil
}

// begin serves a connection that was just made.
func (m *Mount) begin(device int, options fuse.MountOptions) error {
	f := m.fs
	f.device = device
	f.tables.set(&f.tables.head.device, device)
	if err := f.connect(options); err != nil {
		return err
	}
	if err := f.outlive(); err != nil {
		f.bound = err.Error()
		f.log.WithError(err).Info("the mount will not outlive its server: should that die, requests in flight fail and the mount is replaced")
	}
	m.serve()
	return nil
}

// outlive makes the mount one that outlives this server, if there is a keeper to start another.
func (f *FS) outlive() error {
	switch {
	case f.keeper == 0:
		return errors.New("there is no keeper")
	case f.served.Load().Offers()&fuse.CAP_HAS_RESEND == 0:
		return errors.New("the kernel cannot send requests again (Linux 6.9)")
	}
	if err := f.startDescriptorKeeper(); err != nil {
		return err
	}
	f.tables.head.active.Store(uint32(f.tables.column) + 1)
	return nil
}

// Outlives says that the mount outlives its server.
func (f *FS) Outlives() bool { return f.tables.head.active.Load() != 0 }

// serve answers requests until the connection ends.
func (m *Mount) serve() {
	go func() {
		defer close(m.done)
		if err := m.fs.served.Load().Serve(); err != nil {
			m.fs.log.WithError(err).Error("cannot serve")
		}
		m.fs.initialScan.end()
	}()
}

// mountDirectly makes the mount, serves it, and only then attaches it: programs find it
// ready or not at all.
func (m *Mount) mountDirectly(o MountOptions, options fuse.MountOptions) error {
	device, err := unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", fuseDevice, err)
	}
	detached, err := m.newMount(device, o)
	if err != nil {
		unix.Close(device)
		return fmt.Errorf("mount: %w", err)
	}
	defer unix.Close(detached)
	if err := m.begin(device, options); err != nil {
		return err
	}
	if o.OverDead {
		err = replaceDead(detached, o.Dir)
	} else {
		err = unix.MoveMount(detached, "", m.fs.root.fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	}
	if err != nil {
		return fmt.Errorf("attach the mount to %s: %w", o.Dir, err)
	}
	return nil
}

// newMount makes a mount that is attached nowhere yet, with the flags of the one beneath.
func (m *Mount) newMount(device int, o MountOptions) (int, error) {
	context, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(context)
	settings := [][2]string{
		{"source", o.Dir}, {"subtype", Subtype}, {"fd", strconv.Itoa(device)},
		{"rootmode", strconv.FormatUint(unix.S_IFDIR, 8)},
		{"user_id", strconv.Itoa(os.Geteuid())}, {"group_id", strconv.Itoa(os.Getegid())},
		{"max_read", strconv.Itoa(channel.MaxWrite)},
	}
	for _, setting := range settings {
		if err := unix.FsconfigSetString(context, setting[0], setting[1]); err != nil {
			return -1, fmt.Errorf("option %s=%s: %w", setting[0], setting[1], err)
		}
	}
	if err := unix.FsconfigSetFlag(context, "default_permissions"); err != nil {
		return -1, fmt.Errorf("option default_permissions: %w", err)
	}
	if o.AllowOther {
		if err := unix.FsconfigSetFlag(context, "allow_other"); err != nil {
			return -1, fmt.Errorf("option allow_other: %w", err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, err
	}
	attributes := mountAttributes(m.fs.root.fd)
	for _, attribute := range o.Restrictions.each {
		attributes |= attribute
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
}

// mountAttributes are those of the mount a descriptor is on.
func mountAttributes(fd int) int {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	}
	attributes := 0
	for _, a := range []struct {
		flag      int64
		attribute int
	}{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.ST_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
	} {
		if st.Flags&a.flag != 0 {
			attributes |= a.attribute
		}
	}
	return attributes
}

// replaceDead puts a mount in the place of one whose server has died, at no moment
// showing what lies beneath: under it, before it is taken away (MOVE_MOUNT_BENEATH, Linux
// 6.5), or else on top of it, where it stays until it is uncovered again.
func replaceDead(detached int, dir string) error {
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH
	err := unix.MoveMount(detached, "", unix.AT_FDCWD, dir, flags|moveMountBeneath)
	if err == nil {
		return unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	return unix.MoveMount(detached, "", unix.AT_FDCWD, dir, flags)
}

// moveMountBeneath is MOVE_MOUNT_BENEATH of linux/mount.h.
const moveMountBeneath = 0x200

// OpenBeneathDead opens the directory that dead mounts at dir cover. For that it leaves them
// in a mount namespace of its own, and takes a copy of what is there, mounts
// further down included, that outlives the namespace.
func OpenBeneathDead(dir string, dead func(dir string) bool) (*os.File, error) {
	type result struct {
		fd  int
		err error
	}
	results := make(chan result)
	go func() {
		// Never unlocked: the thread, and its namespace, end with this goroutine.
		runtime.LockOSThread()
		fd, err := openBeneathDead(dir, dead)
		results <- result{fd, err}
	}()
	r := <-results
	if r.err != nil {
		return nil, fmt.Errorf("reach the directory beneath the dead mount: %w", r.err)
	}
	return os.NewFile(uintptr(r.fd), dir), nil
}

func openBeneathDead(dir string, dead func(dir string) bool) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, err
	}
	for dead(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return -1, err
		}
	}
	return unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
}

// mountWithHelper lets fusermount3 mount.
func (m *Mount) mountWithHelper(o MountOptions, options fuse.MountOptions) error {
	device, err := fusermount(o)
	if err != nil {
		return err
	}
	return m.begin(device, options)
}

// Unmount takes the mount away: unix.EBUSY if somebody uses it, unless lazily, when it
// goes with its last user.
func (m *Mount) Unmount(lazily bool) error { return Unmount(m.dir, lazily) }

// Done is closed when nothing is served any more.
func (m *Mount) Done() <-chan struct{} { return m.done }

// Unmount takes the mount at dir away, as root or with fusermount3.
func Unmount(dir string, lazily bool) error {
	if os.Geteuid() == 0 {
		flags := unix.UMOUNT_NOFOLLOW
		if lazily {
			flags |= unix.MNT_DETACH
		}
		return unix.Unmount(dir, flags)
	}
	program, err := helper()
	if err != nil {
		return ErrNoHelper
	}
	args := []string{"-u", "--", dir}
	if lazily {
		args = []string{"-u", "-z", "--", dir}
	}
	said, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		// It says what umount(2) said, in words.
		return fmt.Errorf("%w: %s", unix.EBUSY, said)
	}
	return nil
}

// logWriter receives what go-fuse has to say.
type logWriter struct{ log logrus.FieldLogger }

func (w logWriter) Write(line []byte) (int, error) {
	w.log.WithField("from", "go-fuse").Debug(string(line))
	return len(line), nil
}
