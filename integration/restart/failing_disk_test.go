//go:build linux

package integration

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gofs "github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// failing is a filesystem that passes everything through, and fails what changes it when it is told to.
type failing struct {
	*gofs.LoopbackNode
	errno *atomic.Int32
}

// WrapChild implements gofs.NodeWrapChilder.
func (f *failing) WrapChild(_ context.Context, ops gofs.InodeEmbedder) gofs.InodeEmbedder {
	return &failing{ops.(*gofs.LoopbackNode), f.errno}
}

func (f *failing) wrap(h gofs.FileHandle) gofs.FileHandle { return &failingFile{h, f.errno} }

// Open implements gofs.NodeOpener.
func (f *failing) Open(ctx context.Context, flags uint32) (gofs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := f.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return f.wrap(h), fuseFlags | fuse.FOPEN_DIRECT_IO, 0
}

// Create implements gofs.NodeCreater.
func (f *failing) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*gofs.Inode, gofs.FileHandle, uint32, syscall.Errno) {
	inode, h, fuseFlags, errno := f.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return nil, nil, 0, errno
	}
	return inode, f.wrap(h), fuseFlags | fuse.FOPEN_DIRECT_IO, 0
}

// failingFile is an open file there.
type failingFile struct {
	gofs.FileHandle
	errno *atomic.Int32
}

// Read implements gofs.FileReader.
func (f *failingFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return f.FileHandle.(gofs.FileReader).Read(ctx, dest, off)
}

// Write implements gofs.FileWriter. What fails has written a part, as a device does.
func (f *failingFile) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if errno := syscall.Errno(f.errno.Load()); errno != 0 {
		_, _ = f.FileHandle.(gofs.FileWriter).Write(ctx, data[:len(data)/2], off)
		return 0, errno
	}
	return f.FileHandle.(gofs.FileWriter).Write(ctx, data, off)
}

// Allocate implements gofs.FileAllocater.
func (f *failingFile) Allocate(ctx context.Context, off, size uint64, mode uint32) syscall.Errno {
	if errno := syscall.Errno(f.errno.Load()); errno != 0 {
		return errno
	}
	return f.FileHandle.(gofs.FileAllocater).Allocate(ctx, off, size, mode)
}

// Fsync implements gofs.FileFsyncer.
func (f *failingFile) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if errno := syscall.Errno(f.errno.Load()); errno != 0 {
		return errno
	}
	return f.FileHandle.(gofs.FileFsyncer).Fsync(ctx, flags)
}

// Release implements gofs.FileReleaser.
func (f *failingFile) Release(ctx context.Context) syscall.Errno {
	return f.FileHandle.(gofs.FileReleaser).Release(ctx)
}

// mountFailing mounts such a filesystem over a new directory. What it answers to changes is in errno.
func mountFailing(t *testing.T) (dir string, errno *atomic.Int32) {
	t.Helper()
	needFUSE(t)
	dir, errno = t.TempDir(), &atomic.Int32{}
	root := &gofs.LoopbackRoot{Path: t.TempDir()}
	root.RootNode = &failing{&gofs.LoopbackNode{RootData: root}, errno}
	server, err := gofs.Mount(dir, root.RootNode, &gofs.Options{MountOptions: fuse.MountOptions{DirectMount: true, FsName: "failing"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Errorf("A MOUNT IS LEFT BEHIND at %s: %v", dir, err)
		}
	})
	return dir, errno
}

// TestFailingJournal: while the disk of the journal fails, nothing new is acquired, the locks that are
// acknowledged are held and can be released, and afterwards all is as it was told.
func TestFailingJournal(t *testing.T) {
	disk, errno := mountFailing(t)
	m := mountOver(t, t.TempDir())
	m.unmount()
	m.stateDir = filepath.Join(disk, "state")
	m.start()
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("first.lock"))
	holder.must("ok", "take", m.path("second.lock"))
	for _, failure := range []unix.Errno{unix.EIO, unix.EROFS} {
		errno.Store(int32(failure))
		for i := range 3 {
			name := m.path(fmt.Sprintf("new%d.lock", i))
			other.must(unix.ErrnoName(failure), "take", name)
			if exists(name) {
				t.Errorf("%v: what was not acquired is there", failure)
			}
		}
		other.must("EEXIST", "take", m.path("first.lock"))
		other.must("EBUSY", "remove", m.path("first.lock"))
		if err := os.WriteFile(m.path("file"), []byte("text"), 0o644); err != nil {
			t.Errorf("%v: an ordinary file: %v", failure, err)
		}
		holder.must("ok", "remove", m.path("second.lock"))
		if exists(m.path("second.lock")) {
			t.Errorf("%v: a lock that was released is there", failure)
		}
		// The server dies meanwhile: the next one cannot open the journal, and will when it can.
		errno.Store(0)
		other.must("ok", "take", m.path("new.lock"))
		other.must("ok", "remove", m.path("new.lock"))
		holder.must("ok", "take", m.path("second.lock"))
		m.kill()
		m.start()
		if l := m.locks(); len(l) != 2 || l["first.lock"].Verdict != "live" || l["second.lock"].Verdict != "live" {
			t.Errorf("%v: after a restart: %+v", failure, l)
		}
	}
	m.unmount()
}

// TestReadOnlyDisk: on a state directory that cannot be written nothing is mounted, and it is said why.
func TestReadOnlyDisk(t *testing.T) {
	needFUSE(t)
	disk := mountTmpfs(t, unix.MS_RDONLY, "")
	m := &mount{t: t, dir: t.TempDir(), stateDir: filepath.Join(disk, "state"), log: &logBuffer{}}
	err := m.tryStart()
	if err == nil || !strings.Contains(err.Error(), "read-only file system") || m.process.ProcessState.ExitCode() != 7 {
		t.Errorf("%v, exit code %d", err, m.process.ProcessState.ExitCode())
	}
	// A directory that is read-only itself is mounted, and what it answers to a lock is EROFS.
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	over := mountOver(t, dir)
	newLocker(t).must("EROFS", "take", over.path("x.lock"))
	if n := len(over.locks()); n != 0 {
		t.Errorf("%d locks", n)
	}
	over.unmount() // its cleanup unmounts what is beneath
}

// memoryGroup makes a control group with so many bytes of memory and puts a process into it.
func memoryGroup(t *testing.T, limit, pid int) (group string) {
	t.Helper()
	for _, version := range []struct{ parent, limit string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		group = filepath.Join(version.parent, fmt.Sprintf("latchfs-test-%d", os.Getpid()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			eventually(t, "the control group is removed", func() bool {
				left, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
				for pid := range strings.FieldsSeq(string(left)) {
					_ = os.WriteFile(filepath.Join(version.parent, "cgroup.procs"), []byte(pid), 0o644)
				}
				return os.Remove(group) == nil
			})
		})
		if os.WriteFile(filepath.Join(group, version.limit), []byte(strconv.Itoa(limit)), 0o644) != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		return group
	}
	t.Skip("no control group for memory can be made here, as in most containers")
	return ""
}

// hog takes more and more memory, and says so.
func hog() {
	var taken [][]byte
	for {
		taken = append(taken, bytes.Repeat([]byte{1}, 1<<20))
		fmt.Println(len(taken))
		time.Sleep(2 * time.Millisecond)
	}
}

// TestOutOfMemory: when memory runs out the kernel does not kill the keeper, and the mount goes on.
func TestOutOfMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory of its own: make test does it")
	}
	m := mountOver(t, t.TempDir())
	holder, other := newLocker(t), newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	keeper := m.process.Process.Pid
	group := memoryGroup(t, 160<<20, keeper)
	m.killServer() // the next one is in the group
	m.eventuallyServed()
	// The server first, and then one of those that take the memory.
	score := fmt.Sprintf("/proc/%d/oom_score_adj", m.server())
	if err := os.WriteFile(score, []byte("1000"), 0o644); err != nil {
		t.Fatal(err)
	}
	var hogs []*exec.Cmd
	for range 2 {
		hog := exec.Command("/proc/self/exe")
		hog.Env = append(os.Environ(), helperVariable+"=hog")
		if err := hog.Start(); err != nil {
			t.Fatal(err)
		}
		hogs = append(hogs, hog)
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(hog.Process.Pid)), 0o644); err != nil {
			t.Error(err)
		}
	}
	for _, hog := range hogs {
		if err := hog.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("what took all memory ended with %v", err)
		}
	}
	if ended(keeper) {
		t.Fatal("the keeper was killed")
	}
	if deaths := len(m.logged("the server has died")); deaths < 2 {
		t.Errorf("the server died %d times", deaths)
	}
	m.eventuallyServed()
	other.must("EBUSY", "remove", m.path("x.lock"))
	holder.must("ok", "remove", m.path("x.lock"))
	other.must("ok", "take", m.path("x.lock"))
}

// TestFailingCompaction: a disk that fails again and again while the journal is written and compacted
// loses no lock that was acknowledged, and brings none back that was released.
func TestFailingCompaction(t *testing.T) {
	disk, errno := mountFailing(t)
	program := filepath.Join(t.TempDir(), "latchfs")
	if err := build(program, "-tags", "crashtest"); err != nil {
		t.Fatal(err)
	}
	m := (&mount{t: t, program: program, env: []string{"LATCHFS_COMPACT_AT=4096"}}).over(t.TempDir())
	m.unmount()
	m.stateDir = filepath.Join(disk, "state")
	m.start()
	p := newLocker(t)
	stop := make(chan struct{})
	var flipping sync.WaitGroup
	flipping.Go(func() {
		for {
			select {
			case <-stop:
				errno.Store(0)
				return
			case <-time.After(rand.N(4 * time.Millisecond)):
				errno.Store(int32(unix.EIO) - errno.Load())
			}
		}
	})
	held, failed := make(map[string]bool), 0
	for range 3000 {
		name := fmt.Sprintf("%d.lock", rand.IntN(40))
		switch {
		case held[name]:
			p.must("ok", "remove", m.path(name))
			delete(held, name)
		case p.do("take", m.path(name)) == "ok":
			held[name] = true
		default:
			failed++
		}
	}
	close(stop)
	flipping.Wait()
	if failed < 100 {
		t.Errorf("%d attempts failed only", failed)
	}
	check := func(when string) {
		var is, want []string
		for name, l := range m.locks() {
			is = append(is, name+" "+l.Verdict)
		}
		for name := range held {
			want = append(want, name+" live")
		}
		slices.Sort(is)
		slices.Sort(want)
		if !slices.Equal(is, want) {
			t.Errorf("%s: held are %v, not %v", when, is, want)
		}
	}
	check("before a restart")
	m.kill()
	m.start()
	check("after a restart")
	if info, err := os.Stat(filepath.Join(m.stateDir, "journal")); err != nil || info.Size() > 256<<10 {
		t.Errorf("the journal was not compacted: %v, %v", info, err)
	}
	m.unmount()
}

// TestReclaimedGivesWay: killed data locks do not take the journal's room, on a small disk, and what is too large to be
// kept is listed.
func TestReclaimedGivesWay(t *testing.T) {
	needFUSE(t)
	disk, source := mountTmpfs(t, 0, "size=2m"), filepath.Join(t.TempDir(), "source")
	m := mountOver(t, testDir(t))
	m.unmount()
	m.stateDir = filepath.Join(disk, "state")
	m.start()
	kill := func(name string, size int) {
		if err := os.WriteFile(source, bytes.Repeat([]byte("data "), size/5), 0o644); err != nil {
			t.Fatal(err)
		}
		p := newLocker(t)
		p.must("ok", "keep", m.path(name), source)
		p.kill()
	}
	for i := range 6 {
		name := fmt.Sprintf("%d.lock", i)
		kill(name, 400<<10)
		eventually(t, name+" is reaped", func() bool { return !exists(m.path(name)) })
	}
	kill("large.lock", 3<<20)
	var said []byte
	eventually(t, "what is too large is listed", func() bool {
		said, _ = exec.Command(latchfs, "reclaimed", m.dir).CombinedOutput()
		return bytes.Contains(said, []byte("large.lock"))
	})
	if kept := bytes.Count(said, []byte("dead-pid")); kept < 3 || len(m.logged("stays as an ordinary file")) != 1 {
		t.Errorf("%s", said)
	}
	if info, err := os.Stat(m.path("large.lock")); err != nil || info.Size() < 3<<20-5 {
		t.Errorf("%v %v", info, err)
	}
	// Whatever else fills the disk.
	_ = os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 2<<20), 0o600)
	newLocker(t).must("ok", "hoard", m.path("many"), "1000")
	m.unmount()
}
