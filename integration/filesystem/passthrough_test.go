//go:build linux

package filesystem

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestPassthroughRequests checks that reads and writes of an ordinary file bypass latchfs, and that the kernel
// sends no request before each of them.
func TestPassthroughRequests(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir(), "--log-level", "trace")
	if strings.Contains(m.Log(), `"passthrough":false`) {
		t.Skip("this kernel's FUSE has no passthrough (before 6.9)")
	}
	file, err := os.Create(m.Path("f"))
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 4096)
	for range 200 {
		if _, err := file.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		if _, err := file.ReadAt(block, int64(i)*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the file is closed", func() bool { return strings.Contains(m.Log(), ": RELEASE") })
	if requests := strings.Count(m.Log(), `"msg":"rx `); requests > 12 {
		t.Errorf("%d requests for 200 writes and 200 reads", requests)
	}
	for _, request := range []string{": READ ", ": WRITE "} {
		if strings.Contains(m.Log(), request) {
			t.Errorf("there was a%s", request)
		}
	}
}

// TestMappedAppend checks that a change in the mapping of a file that was opened to append stays at its place,
// also at a lock name, where writes pass through latchfs.
func TestMappedAppend(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, name := range []string{"file", "x.lock"} {
		fd, err := unix.Open(m.Path(name), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		want := bytes.Repeat([]byte("a"), 8192)
		if _, err := unix.Write(fd, want); err != nil {
			t.Fatal(err)
		}
		memory, err := unix.Mmap(fd, 0, len(want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		copy(memory, "mapped")
		copy(want, "mapped")
		if err := errors.Join(unix.Msync(memory, unix.MS_SYNC), unix.Munmap(memory)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(m.Path(name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, beginning with %q: %v", name, len(got), got[:6], err)
		}
	}
}

// TestMixedOpens checks that a file that is open with passthrough can also be opened in ways that pass through
// latchfs, and that each descriptor sees what the others wrote. The files are a set-user-id file and a pid file.
func TestMixedOpens(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	for _, name := range []string{"file", "x.lock"} {
		first, err := unix.Open(m.Path(name), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(first)
		text := harness.OwnPID()
		if _, err := unix.Write(first, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if name == "file" {
			if err := unix.Chmod(m.Path(name), 0o4755); err != nil {
				t.Fatal(err)
			}
		} else {
			harness.StartProcess(t).Must("ok", "take", m.Path("other.lock")) // meanwhile latchfs sees the payload
		}
		for _, flags := range []int{unix.O_RDONLY, unix.O_RDWR, unix.O_WRONLY | unix.O_APPEND} {
			second, err := unix.Open(m.Path(name), flags|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatalf("%s, flags %x: %v", name, flags, err)
			}
			if flags != unix.O_RDONLY {
				if _, err := unix.Pwrite(second, []byte(text), 0); err != nil {
					t.Errorf("%s, flags %x: %v", name, flags, err)
				}
				if flags&unix.O_APPEND != 0 {
					text += text
				}
			}
			got := make([]byte, 100)
			n, err := unix.Pread(first, got, 0)
			if err != nil || string(got[:n]) != text {
				t.Errorf("%s, flags %x: reads %q, %v; not %q", name, flags, got[:n], err, text)
			}
			if flags != unix.O_WRONLY|unix.O_APPEND {
				memory, err := unix.Mmap(second, 0, len(text), unix.PROT_READ, unix.MAP_SHARED)
				if err != nil || string(memory) != text {
					t.Errorf("%s, flags %x: mapped %q, %v", name, flags, memory, err)
				} else if err := unix.Munmap(memory); err != nil {
					t.Error(err)
				}
			}
			unix.Close(second)
		}
	}
}

// TestMappedStoresShowInTimes: the kernel does not notice that a store to a mapping changes the times of the file beneath. Once
// the file is closed they are as beneath.
func TestMappedStoresShowInTimes(t *testing.T) {
	m := harness.MountOver(t, t.TempDir())
	path := m.Path("file")
	if err := os.WriteFile(path, make([]byte, 4096), 0o644); err != nil {
		t.Fatal(err)
	}
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(path, before, before); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mapping, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil { // the kernel keeps what it is answered for a second
		t.Fatal(err)
	}
	mapping[0] = 1
	if err := errors.Join(unix.Msync(mapping, unix.MS_SYNC), unix.Munmap(mapping), unix.Close(fd)); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the file is closed", func() bool { return harness.StatusNumber(t, m.Path(".latchfs/status"), `  "handles":`) == 0 })
	if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) > time.Minute {
		t.Errorf("%v: it was changed at %v", err, info.ModTime())
	}
}
