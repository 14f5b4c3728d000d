//go:build linux

package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"latchfs/fs/backing"
	"latchfs/fs/handover"
	"latchfs/lockstore"
)

// testFS returns an FS that is not served, and its directory.
func testFS(t *testing.T) (*FS, string) {
	t.Helper()
	dir := t.TempDir()
	beneath, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := handover.Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := backing.Open(backing.Options{Tables: tables, Backing: beneath})
	if err != nil {
		t.Fatal(err)
	}
	f, err := New(d, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f, dir
}

func isOpen(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

func TestHardLinksAreOneInode(t *testing.T) {
	f, dir := testFS(t)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	a, _, err := f.entry(f.Root, "a", &fuse.InHeader{})
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := f.entry(f.Root, "b", &fuse.InHeader{})
	if err != nil || a != b || a.Row.Load().Lookups.Load() != 2 {
		t.Errorf("%+v %+v %v", a, b, err)
	}
}

func TestForgetClosesAtTheLastLookup(t *testing.T) {
	f, dir := testFS(t)
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	n, _, err := f.entry(f.Root, "a", &fuse.InHeader{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.entry(f.Root, "a", &fuse.InHeader{}); err != nil {
		t.Fatal(err)
	}
	f.Forget(n.ID, 1)
	if f.Inodes.Get(n.ID) != n || !isOpen(n.FD) {
		t.Error("forgotten while the kernel knows it")
	}
	f.Forget(n.ID, 1)
	if f.Inodes.Get(n.ID) != nil || isOpen(n.FD) || f.Inodes.Size() != 1 {
		t.Error("not forgotten")
	}
	again, _, err := f.entry(f.Root, "a", &fuse.InHeader{})
	if err != nil || again.ID == n.ID {
		t.Errorf("a node id was used again: %v", err)
	}
	f.Forget(1, 1)
	if f.Inodes.Get(1) != f.Root {
		t.Error("the root was forgotten")
	}
}

func TestPathFollowsMovedDirectories(t *testing.T) {
	f, dir := testFS(t)
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	a, _, err := f.entry(f.Root, "a", &fuse.InHeader{})
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := f.entry(a, "b", &fuse.InHeader{})
	if err != nil {
		t.Fatal(err)
	}
	if path := f.Inodes.Path(b, "x.lock"); path != "a/b/x.lock" {
		t.Error(path)
	}
	if err := os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")); err != nil {
		t.Fatal(err)
	}
	f.Moved(f.Root, "c")
	if path := f.Inodes.Path(b, "x.lock"); path != "c/b/x.lock" {
		t.Error(path)
	}
}

// TestNoLinkLeadsOut: when the store accesses files beneath, it follows no symbolic link, neither as the last
// component nor as a directory on the way.
func TestNoLinkLeadsOut(t *testing.T) {
	f, dir := testFS(t)
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "x.lock"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"x.lock": filepath.Join(outside, "x.lock"), "sub": outside} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	files := f.LockFiles()
	for _, name := range []string{"x.lock", "sub/x.lock", "../" + filepath.Base(outside) + "/x.lock"} {
		if file, err := files.Open(name); err == nil {
			file.Close()
			t.Errorf("%s: opened", name)
		}
		if entries, err := files.Entries(name, 10); err == nil {
			t.Errorf("%s: listed %v", name, entries)
		}
	}
	for _, name := range []string{"sub/x.lock", "../" + filepath.Base(outside) + "/x.lock"} {
		_ = files.Remove(name)
	}
	if _, err := os.Stat(filepath.Join(outside, "x.lock")); err != nil {
		t.Error("removed through a link")
	}
}

// TestStatusOfEveryError: each error of the store becomes the errno that programs expect.
func TestStatusOfEveryError(t *testing.T) {
	for err, want := range map[error]unix.Errno{
		lockstore.ErrHeld: unix.EBUSY, lockstore.ErrExists: unix.EEXIST, lockstore.ErrNoSpace: unix.ENOSPC,
		lockstore.ErrNoLock: unix.ENOENT, lockstore.ErrNotOperator: unix.EACCES,
		os.ErrNotExist: unix.ENOENT, unix.EXDEV: unix.EXDEV, unix.EMFILE: unix.ENFILE, os.ErrClosed: unix.EIO,
	} {
		if got := unix.Errno(status(err)); got != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}

// TestMoreFilesThanDescriptors: beyond a limit files are opened by handle, whatever their name is now. A handle never
// opens a later file with the same inode number.
func TestMoreFilesThanDescriptors(t *testing.T) {
	f, dir := testFS(t)
	if f.ByHandle < 0 {
		t.Skip("files cannot be opened by handle here")
	}
	f.Descriptors.Limit = 16
	path := func(name string) string { return filepath.Join(dir, name) }
	var all []*backing.Inode
	for i := range 10 {
		name := strconv.Itoa(i)
		if err := os.WriteFile(path(name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		n, _, err := f.entry(f.Root, name, &fuse.InHeader{})
		if err != nil {
			t.Fatal(err)
		}
		if pinned := n.FD >= 0; pinned != (i < 2) {
			t.Errorf("%s keeps a descriptor: %v", name, pinned)
		}
		all = append(all, n)
	}
	if err := os.Rename(path("9"), path("nine")); err != nil {
		t.Fatal(err)
	}
	fd, err := f.Reopen(all[9], unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 1)
	if _, err := unix.Read(fd, text); err != nil || string(text) != "9" {
		t.Errorf("%q %v", text, err)
	}
	unix.Close(fd)
	if again, _, err := f.entry(f.Root, "nine", &fuse.InHeader{}); err != nil || again != all[9] {
		t.Errorf("the same file is another inode: %v", err)
	}
	// The next file gets the inode number of the removed one.
	stale := all[8]
	for range backing.LeastRecent { // so that it is not among those that were looked up last
		if err := f.LookedUp(all[2], false); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(path("8")); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		name := "new" + strconv.Itoa(i)
		if err := os.WriteFile(path(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		st, err := backing.StatEntry(f.Root.FD, name)
		if err != nil {
			t.Fatal(err)
		}
		if backing.KeyOf(&st) != stale.Key {
			continue
		}
		n, _, err := f.entry(f.Root, name, &fuse.InHeader{})
		if err != nil || n == stale {
			t.Errorf("%s is taken for the file that was removed: %v", name, err)
		}
		f.Forget(stale.ID, 1)
		if again, _, err := f.entry(f.Root, name, &fuse.InHeader{}); err != nil || again != n {
			t.Errorf("%s: %v", name, err)
		}
		break
	}
	if _, err := f.Stat(stale); !errors.Is(err, unix.ESTALE) {
		t.Errorf("a file that is gone: %v", err)
	}
}

// TestMadeWithAUsedNumber: a new file may get the inode number of a removed one whose inode the kernel has not
// forgotten. It is another inode, however it comes into the table. An existing file keeps its inode.
func TestMadeWithAUsedNumber(t *testing.T) {
	f, dir := testFS(t)
	if f.ByHandle < 0 {
		t.Skip("files cannot be opened by handle here")
	}
	f.Descriptors.Limit = 7
	path := filepath.Join(dir, "x.lock")
	create := func() (*backing.Inode, *backing.Handle) {
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		n, h, _, err := f.newFile(fd, &fuse.CreateIn{}, false)
		if err != nil {
			t.Fatal(err)
		}
		return n, h
	}
	for range 1000 {
		old, h := create()
		f.place(old, f.Root, "x.lock")
		f.CloseFile(h)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		made, h := create()
		if made.Key != old.Key {
			f.CloseFile(h)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if st, err := f.Stat(made); made == old || err != nil || st.Ino != made.Key.Ino {
			t.Errorf("the new file is taken for the removed one: %v", err)
		}
		if f.IsAt(old, "x.lock") || !f.IsAt(made, "x.lock") {
			t.Error("the removed file is taken to be at the name of the new one")
		}
		if again, _, err := f.entry(f.Root, "x.lock", &fuse.InHeader{}); again != made || err != nil {
			t.Errorf("the same file is another inode: %v", err)
		}
		return
	}
	t.Skip("the filesystem here uses no number again")
}
