//go:build linux

package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
)

// createIn returns a request of this process to make a file in the root.
func createIn(flags int) *fuse.CreateIn {
	in := &fuse.CreateIn{Flags: uint32(unix.O_CREAT | flags), Mode: unix.S_IFREG | 0o644}
	in.NodeId, in.Unique = fuse.FUSE_ROOT_ID, 2
	return in
}

// TestCreateOpensNoFileThatIsThere: the kernel has not checked whether the caller may open a file that was made
// beneath after its lookup.
func TestCreateOpensNoFileThatIsThere(t *testing.T) {
	f, dir := testFS(t)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[int]unix.Errno{
		unix.O_RDWR: unix.ESTALE, unix.O_RDWR | unix.O_TRUNC: unix.ESTALE, unix.O_RDWR | unix.O_EXCL: unix.EEXIST,
	} {
		var out fuse.CreateOut
		if got := unix.Errno(f.Create(nil, createIn(flags), "file", &out)); got != want {
			t.Errorf("flags %#x: %v, not %v", flags, got, want)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("%q %v", text, err)
	}
}

// TestRefusedMakesNothing: a refused request leaves no entry, whichever descriptor could not be opened.
func TestRefusedMakesNothing(t *testing.T) {
	f, dir := testFS(t)
	f.NoPassthrough.Store(true)
	if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	old, _, err := f.entry(f.Root, "old", &fuse.InHeader{})
	if err != nil {
		t.Fatal(err)
	}
	header := createIn(0).InHeader
	for op, do := range map[string]func(out *fuse.CreateOut) fuse.Status{
		"create": func(out *fuse.CreateOut) fuse.Status { return f.Create(nil, createIn(unix.O_RDWR), "new", out) },
		"mkdir": func(out *fuse.CreateOut) fuse.Status {
			return f.Mkdir(nil, &fuse.MkdirIn{InHeader: header, Mode: 0o755}, "new", &out.EntryOut)
		},
		"mknod": func(out *fuse.CreateOut) fuse.Status {
			return f.Mknod(nil, &fuse.MknodIn{InHeader: header, Mode: unix.S_IFREG | 0o644}, "new", &out.EntryOut)
		},
		"symlink": func(out *fuse.CreateOut) fuse.Status { return f.Symlink(nil, &header, "text", "new", &out.EntryOut) },
		"link": func(out *fuse.CreateOut) fuse.Status {
			return f.Link(nil, &fuse.LinkIn{InHeader: header, Oldnodeid: old.ID}, "new", &out.EntryOut)
		},
	} {
		for spare := 0; ; spare++ {
			var out fuse.CreateOut
			got := withDescriptors(t, spare, func() unix.Errno { return unix.Errno(do(&out)) })
			err := os.Remove(filepath.Join(dir, "new"))
			if made := err == nil; made != (got == 0) {
				t.Errorf("%s with %d descriptors: %v, and the entry is there: %v", op, spare, got, made)
			}
			if got == 0 {
				break
			}
			if got != unix.ENFILE {
				t.Errorf("%s with %d descriptors: %v", op, spare, got)
			}
		}
	}
}

// withDescriptors calls do while this process may open only spare more descriptors.
func withDescriptors(t *testing.T, spare int, do func() unix.Errno) unix.Errno {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	next, err := unix.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(next)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next + spare), Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	errno := do()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	return errno
}

// TestIntentOfAResentRequestIsFound: a request whose first server died before it wrote the intent may be sent a third time.
func TestIntentOfAResentRequestIsFound(t *testing.T) {
	f, _ := testFS(t)
	in := createIn(unix.O_EXCL).InHeader
	in.Unique |= backing.UniqueResent
	if i := f.beginEntry(&in, opCreate, "new"); i.Again {
		t.Fatal("there is an intent of a request that is new")
	}
	if i := f.beginEntry(&in, opCreate, "new"); !i.Again {
		t.Error("the intent is not found when the request comes again")
	}
}
