//go:build linux

package fs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// createIn is the request of the caller of this test to make a file in the root.
func createIn(flags int) *fuse.CreateIn {
	in := &fuse.CreateIn{Flags: uint32(unix.O_CREAT | flags), Mode: unix.S_IFREG | 0o644}
	in.NodeId, in.Unique = fuse.FUSE_ROOT_ID, 2
	return in
}

// TestCreateOpensNoFileThatIsThere: nobody has checked whether the caller may open a file that was made beneath
// since the kernel looked.
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
