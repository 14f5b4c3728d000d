package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"latchfs/fs/inotify"
)

// notifierCommand is the command of the inotify notifier. A server starts it to unlink names in the mount, so that
// processes that watch with inotify(7) get an event; the server must not call into its own mount. The notifier prints
// its thread id. Then it reads names, each with d (directory) or f (file) before it and a zero byte after it, and answers
// each name with an empty line.
func notifierCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "notifier DIR DEVICE",
		Hidden: true,
		Args:   checkArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			device, err := strconv.ParseUint(args[1], 10, 64)
			if err != nil {
				return usageError{err}
			}
			return runNotifier(args[0], device, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func runNotifier(dir string, device uint64, in io.Reader, out io.Writer) error {
	runtime.LockOSThread() // the server recognizes the notifier by its thread id
	_ = os.WriteFile("/proc/self/comm", []byte("latchfs-notifier"), 0)
	if _, err := fmt.Fprintln(out, unix.Gettid()); err != nil {
		return err
	}
	for names := bufio.NewReader(in); ; {
		name, err := names.ReadString(0)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		flags := 0
		if name[0] == 'd' {
			flags = unix.AT_REMOVEDIR
		}
		// If the name has gone, nothing is left to do.
		_ = unlinkIn(dir, device, strings.TrimSuffix(name[1:], "\x00"), flags)
		if _, err := fmt.Fprintln(out); err != nil {
			return err
		}
	}
}

// unlinkIn unlinks a name in the mount at dir. It returns ESTALE if the filesystem at dir has another device number, so
// that it never unlinks a name in a filesystem that has replaced the mount.
func unlinkIn(dir string, device uint64, name string, flags int) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	at, err := deviceOf(root)
	if err != nil {
		return err
	}
	if at != device {
		return unix.ESTALE
	}
	parent, err := unix.Openat2(root, path.Dir(name), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	return unix.Unlinkat(parent, path.Base(name), flags)
}

// deviceOf returns the device number of the filesystem of a descriptor. It sends no request to the server.
func deviceOf(fd int) (uint64, error) {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, 0, &st)
	return unix.Mkdev(st.Dev_major, st.Dev_minor), err
}

// notifierProcess is a running inotify notifier. It implements [inotify.Unlinker].
type notifierProcess struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	thread int
	ended  chan struct{}
}

// startNotifier starts a notifier for the mount at dir.
func startNotifier(dir string) (inotify.Unlinker, error) {
	mounts, _, err := mountsAt(dir)
	if err != nil {
		return nil, err
	}
	if len(mounts) == 0 {
		return nil, fmt.Errorf("%s is not mounted here", dir)
	}
	last := mounts[len(mounts)-1]
	h := &notifierProcess{ended: make(chan struct{})}
	h.cmd = exec.Command("/proc/self/exe", "notifier", dir, strconv.FormatUint(unix.Mkdev(uint32(last.Major), uint32(last.Minor)), 10))
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// Pdeathsig ends the notifier when the thread that started it ends, so the thread stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := h.cmd.Start()
		started <- err
		if err == nil {
			<-h.ended
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	h.out = bufio.NewReader(out)
	line, err := h.out.ReadString('\n')
	if err == nil {
		h.thread, err = strconv.Atoi(strings.TrimSpace(line))
	}
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("the notifier did not start: %w", err)
	}
	return h, nil
}

// Thread implements inotify.Unlinker.
func (h *notifierProcess) Thread() int { return h.thread }

// Unlink implements inotify.Unlinker.
func (h *notifierProcess) Unlink(name string, directory bool) error {
	kind := "f"
	if directory {
		kind = "d"
	}
	if _, err := io.WriteString(h.in, kind+name+"\x00"); err != nil {
		return err
	}
	_, err := h.out.ReadString('\n')
	return err
}

// Close implements inotify.Unlinker.
func (h *notifierProcess) Close() {
	h.in.Close()
	_ = h.cmd.Wait()
	close(h.ended)
}
