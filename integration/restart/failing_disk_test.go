//go:build linux

package restart

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

	"latchfs/integration/harness"
)

// failing is a filesystem that passes everything through, and fails changes while errno is set.
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

// failingFile is an open file of that filesystem.
type failingFile struct {
	gofs.FileHandle
	errno *atomic.Int32
}

// Read implements gofs.FileReader.
func (f *failingFile) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return f.FileHandle.(gofs.FileReader).Read(ctx, dest, off)
}

// Write implements gofs.FileWriter. A write that fails has written a part, as on a device.
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

// mountFailing mounts such a filesystem over a new directory. While errno is not 0, it is the answer to all
// changes.
func mountFailing(t *testing.T) (dir string, errno *atomic.Int32) {
	t.Helper()
	harness.NeedFUSE(t)
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

// TestFailingJournal checks a disk of the journal that fails: no lock is acquired, locks that were acknowledged
// stay held and can be released, and everything is consistent afterwards.
func TestFailingJournal(t *testing.T) {
	t.Parallel()
	disk, errno := mountFailing(t)
	m := harness.MountOver(t, t.TempDir())
	m.Unmount()
	m.StateDir = filepath.Join(disk, "state")
	m.Start()
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("first.lock"))
	holder.Must("ok", "take", m.Path("second.lock"))
	for _, failure := range []unix.Errno{unix.EIO, unix.EROFS} {
		errno.Store(int32(failure))
		for i := range 3 {
			name := m.Path(fmt.Sprintf("new%d.lock", i))
			other.Must(unix.ErrnoName(failure), "take", name)
			if harness.Exists(name) {
				t.Errorf("%v: what was not acquired is there", failure)
			}
		}
		other.Must("EEXIST", "take", m.Path("first.lock"))
		other.Must("EBUSY", "remove", m.Path("first.lock"))
		if err := os.WriteFile(m.Path("file"), []byte("text"), 0o644); err != nil {
			t.Errorf("%v: an ordinary file: %v", failure, err)
		}
		holder.Must("ok", "remove", m.Path("second.lock"))
		if harness.Exists(m.Path("second.lock")) {
			t.Errorf("%v: a lock that was released is there", failure)
		}
		// If the server dies, the next one cannot open the journal, and retries.
		errno.Store(0)
		other.Must("ok", "take", m.Path("new.lock"))
		other.Must("ok", "remove", m.Path("new.lock"))
		holder.Must("ok", "take", m.Path("second.lock"))
		m.Kill()
		m.Start()
		if l := m.Locks(); len(l) != 2 || l["first.lock"].Verdict != "live" || l["second.lock"].Verdict != "live" {
			t.Errorf("%v: after a restart: %+v", failure, l)
		}
	}
	m.Unmount()
}

// TestReadOnlyDisk checks that latchfs does not mount with a state directory that it cannot write, and gives the
// reason.
func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	disk := harness.MountTmpfs(t, unix.MS_RDONLY, "")
	m := &harness.Mount{T: t, Dir: t.TempDir(), StateDir: filepath.Join(disk, "state")}
	err := m.TryStart()
	if err == nil || !strings.Contains(err.Error(), "read-only file system") || m.Keeper.ProcessState.ExitCode() != 7 {
		t.Errorf("%v, exit code %d", err, m.Keeper.ProcessState.ExitCode())
	}
	// A read-only directory itself can be mounted. Locks in it fail with EROFS.
	dir := t.TempDir()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	over := harness.MountOver(t, dir)
	harness.StartProcess(t).Must("EROFS", "take", over.Path("x.lock"))
	if n := len(over.Locks()); n != 0 {
		t.Errorf("%d locks", n)
	}
	over.Unmount() // the cleanup of the test unmounts the directory beneath
}

// memoryGroup makes a control group with a limit of memory in bytes and moves a process into it.
func memoryGroup(t *testing.T, limit, pid int) (group string) {
	t.Helper()
	for _, version := range []struct{ parent, limit string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		group = filepath.Join(version.parent, fmt.Sprintf("latchfs-test-%d", os.Getpid()))
		if os.Mkdir(group, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			harness.Eventually(t, "the control group is removed", func() bool {
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

// hog takes more and more memory, and prints how much.
func hog() {
	var taken [][]byte
	for {
		taken = append(taken, bytes.Repeat([]byte{1}, 1<<20))
		fmt.Println(len(taken))
		time.Sleep(2 * time.Millisecond)
	}
}

// TestOutOfMemory checks that the kernel does not kill the keeper when memory runs out, and that the mount goes
// on.
func TestOutOfMemory(t *testing.T) {
	if harness.RaceEnabled {
		t.Skip("the race detector takes memory of its own: make test does it")
	}
	m := harness.MountOver(t, t.TempDir())
	holder, other := harness.StartProcess(t), harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	keeper := m.Keeper.Process.Pid
	group := memoryGroup(t, 160<<20, keeper)
	m.KillServer() // the next server is in the control group
	m.WaitUntilServed()
	// The kernel kills the server first, and then one of the processes that take the memory.
	score := fmt.Sprintf("/proc/%d/oom_score_adj", m.Server())
	if err := os.WriteFile(score, []byte("1000"), 0o644); err != nil {
		t.Fatal(err)
	}
	var hogs []*exec.Cmd
	for range 2 {
		hog := exec.Command("/proc/self/exe")
		hog.Env = append(os.Environ(), harness.HelperVariable+"=hog")
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
	if harness.HasEnded(keeper) {
		t.Fatal("the keeper was killed")
	}
	if deaths := len(m.Logged("the server has died")); deaths < 2 {
		t.Errorf("the server died %d times", deaths)
	}
	m.WaitUntilServed()
	other.Must("EBUSY", "remove", m.Path("x.lock"))
	holder.Must("ok", "remove", m.Path("x.lock"))
	other.Must("ok", "take", m.Path("x.lock"))
}

// TestFailingCompaction checks that a disk that fails repeatedly while the journal is written and compacted loses
// no lock that was acknowledged, and brings none back that was released.
func TestFailingCompaction(t *testing.T) {
	t.Parallel()
	disk, errno := mountFailing(t)
	program := filepath.Join(t.TempDir(), "latchfs")
	if err := harness.Build(program, "-tags", "crashtest"); err != nil {
		t.Fatal(err)
	}
	m := (&harness.Mount{T: t, Program: program, Env: []string{"LATCHFS_COMPACT_AT=4096"}}).Over(t.TempDir())
	m.Unmount()
	m.StateDir = filepath.Join(disk, "state")
	m.Start()
	p := harness.StartProcess(t)
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
			p.Must("ok", "remove", m.Path(name))
			delete(held, name)
		case p.Do("take", m.Path(name)) == "ok":
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
		for name, l := range m.Locks() {
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
	m.Kill()
	m.Start()
	check("after a restart")
	if info, err := os.Stat(filepath.Join(m.StateDir, "journal")); err != nil || info.Size() > 256<<10 {
		t.Errorf("the journal was not compacted: %v, %v", info, err)
	}
	m.Unmount()
}

// TestReclaimedGivesWay checks that the kept content of stale locks does not fill a small disk that the journal
// needs, and that latchfs lists content that was too large to be kept.
func TestReclaimedGivesWay(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	disk, source := harness.MountTmpfs(t, 0, "size=2m"), filepath.Join(t.TempDir(), "source")
	m := harness.MountOver(t, harness.PublicDir(t))
	m.Unmount()
	m.StateDir = filepath.Join(disk, "state")
	m.Start()
	kill := func(name string, size int) {
		if err := os.WriteFile(source, bytes.Repeat([]byte("data "), size/5), 0o644); err != nil {
			t.Fatal(err)
		}
		p := harness.StartProcess(t)
		p.Must("ok", "keep", m.Path(name), source)
		p.Kill()
	}
	for i := range 6 {
		name := fmt.Sprintf("%d.lock", i)
		kill(name, 400<<10)
		harness.Eventually(t, name+" is reaped", func() bool { return !harness.Exists(m.Path(name)) })
	}
	kill("large.lock", 3<<20)
	var said []byte
	harness.Eventually(t, "what is too large is listed", func() bool {
		said, _ = exec.Command(harness.Latchfs, "reclaimed", m.Dir).CombinedOutput()
		return bytes.Contains(said, []byte("large.lock"))
	})
	if kept := bytes.Count(said, []byte("dead-pid")); kept < 3 || len(m.Logged("stays as an ordinary file")) != 1 {
		t.Errorf("%s", said)
	}
	if info, err := os.Stat(m.Path("large.lock")); err != nil || info.Size() < 3<<20-5 {
		t.Errorf("%v %v", info, err)
	}
	// Another program fills the disk.
	_ = os.WriteFile(filepath.Join(disk, "filler"), make([]byte, 2<<20), 0o600)
	harness.StartProcess(t).Must("ok", "hoard", m.Path("many"), "1000")
	m.Unmount()
}
