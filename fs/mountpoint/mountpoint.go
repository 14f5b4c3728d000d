//go:build linux

// Package mountpoint makes, replaces and takes away mounts of type fuse.latchfs: as root with the system calls of the
// kernel, and as another user with fusermount3(1). It serves no requests.
package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"latchfs/fs/channel"
)

// Subtype makes the mount's type "fuse.latchfs" in mountinfo (proc_pid_mountinfo(5)).
const Subtype = "latchfs"

const fuseDevice = "/dev/fuse"

var (
	// ErrNoFUSE: the kernel offers no FUSE here.
	ErrNoFUSE = errors.New("no FUSE here")
	// ErrNoHelper: only root mounts without fusermount3, of the package fuse3.
	ErrNoHelper = errors.New("fusermount3 is needed by users other than root: install fuse3")
)

// Options say what to mount over.
type Options struct {
	// Dir is the absolute path of the directory, without symbolic links.
	Dir string
	// OverDead says that a mount whose server has died covers Dir. It is replaced, which takes root.
	OverDead bool
	// AllowOther admits users other than the one who mounts. The permissions of the files apply to all.
	AllowOther bool
	// Restrictions are added to those of the mount beneath.
	Restrictions Restrictions
}

// Restrictions are the options of mount(8) with the same names.
type Restrictions struct{ NoSuid, NoDev, NoExec, NoAtime bool }

// each yields the names of the restrictions that are set, and their attributes for fsmount(2).
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

// Probe returns nil if FUSE can be used here, else ErrNoFUSE, ErrNoHelper or the error of the system.
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

// Create makes a mount of the directory that is open as backing, and returns the descriptor of its connection. As root
// the mount is attached to the directory by attach, so that programs find it served or not at all. With fusermount3 it is
// attached at once, and attach does nothing.
func Create(o Options, backing int) (device int, attach func() error, err error) {
	if os.Geteuid() != 0 {
		device, err = fusermount(o)
		return device, func() error { return nil }, err
	}
	device, err = unix.Open(fuseDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("%s: %w", fuseDevice, err)
	}
	detached, err := newMount(device, o, backing)
	if err != nil {
		unix.Close(device)
		return -1, nil, fmt.Errorf("mount: %w", err)
	}
	return device, func() error {
		defer unix.Close(detached)
		var err error
		if o.OverDead {
			err = replaceDead(detached, o.Dir)
		} else {
			err = unix.MoveMount(detached, "", backing, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		}
		if err != nil {
			return fmt.Errorf("attach the mount to %s: %w", o.Dir, err)
		}
		return nil
	}, nil
}

// newMount makes a mount that is not attached yet, with the flags of the mount beneath.
func newMount(device int, o Options, backing int) (int, error) {
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
	attributes := mountAttributes(backing)
	for _, attribute := range o.Restrictions.each {
		attributes |= attribute
	}
	return unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
}

// mountAttributes returns the attributes of the mount that fd is on.
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

// replaceDead puts a mount in the place of one whose server has died. The directory beneath shows at no moment: the new
// mount goes under the dead one, which is then taken away (MOVE_MOUNT_BENEATH, Linux 6.5). Older kernels put it on top.
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

// OpenBeneathDead opens the directory that dead mounts at dir cover. It unmounts them in a mount namespace of its own and
// opens a copy of the tree there, with the mounts further down, that outlives the namespace.
func OpenBeneathDead(dir string, dead func(dir string) bool) (*os.File, error) {
	type result struct {
		fd  int
		err error
	}
	results := make(chan result)
	go func() {
		// The thread is never unlocked: it ends with this goroutine, and its namespace with it.
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

// Unmount takes the mount at dir away, as root or with fusermount3. It returns unix.EBUSY if the mount is in use, unless
// lazily: then the mount is hidden at once and ends with its last user.
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
		// fusermount3 prints the error of umount(2) in words.
		return fmt.Errorf("%w: %s", unix.EBUSY, said)
	}
	return nil
}

// fusermount mounts as an ordinary user and returns the descriptor of the connection (fusermount3(1)).
func fusermount(o Options) (device int, err error) {
	program, err := helper()
	if err != nil {
		return -1, ErrNoHelper
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(pair[0])
	remote := os.NewFile(uintptr(pair[1]), "fusermount3")
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	options := []string{
		"fsname=" + escape.Replace(o.Dir), "subtype=" + Subtype, "max_read=" + strconv.Itoa(channel.MaxWrite), "default_permissions",
	}
	if o.AllowOther {
		options = append(options, "allow_other")
	}
	for name := range o.Restrictions.each {
		options = append(options, name)
	}
	cmd := exec.Command(program, "-o", strings.Join(options, ","), "--", o.Dir)
	cmd.ExtraFiles = []*os.File{remote}
	cmd.Env = append(os.Environ(), "_FUSE_COMMFD=3")
	said, err := cmd.CombinedOutput()
	remote.Close()
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w: %s", err, strings.TrimSpace(string(said)))
	}
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 8), control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fusermount3: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1, fmt.Errorf("fusermount3 passed no descriptor: %w", err)
	}
	return fds[0], nil
}
