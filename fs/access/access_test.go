//go:build linux

package access

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// entry is an entry of an ACL: tag, permissions, id.
type entry [3]uint32

// attribute returns an ACL as the value of its extended attribute.
func attribute(entries []entry) []byte {
	text := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		text = binary.LittleEndian.AppendUint16(text, uint16(e[0]))
		text = binary.LittleEndian.AppendUint16(text, uint16(e[1]))
		text = binary.LittleEndian.AppendUint32(text, e[2])
	}
	return text
}

// TestACL: the first entry that is about a user decides, groups grant together, and the mask limits all but owner and
// others.
func TestACL(t *testing.T) {
	const none = ^uint32(0)
	st := &unix.Stat_t{Uid: 1, Gid: 10}
	acl := attribute([]entry{
		{aclUserObj, 7, none}, {aclUser, 7, 2}, {aclGroupObj, 4, none}, {aclGroup, 1, 11},
		{aclMask, 5, none}, {aclOther, 1, none},
	})
	for _, c := range []struct {
		name string
		user User
		need uint32
		want bool
	}{
		{"the owner", User{UID: 1}, 7, true},
		{"a named user within the mask", User{UID: 2}, 5, true},
		{"a named user beyond the mask", User{UID: 2}, 2, false},
		{"the group", User{UID: 3, groups: []uint32{10}}, 4, true},
		{"a named group", User{UID: 3, groups: []uint32{11}}, 1, true},
		{"either of two groups", User{UID: 3, groups: []uint32{10, 11}}, 1, true},
		{"no group grants both", User{UID: 3, groups: []uint32{10, 11}}, 5, false},
		{"a member is not among the others", User{UID: 3, groups: []uint32{10}}, 1, false},
		{"another user", User{UID: 3}, 1, true},
		{"another user wants more", User{UID: 3}, 4, false},
	} {
		if got := c.user.acl(acl, st, c.need); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}

// TestNamesAndLists: a user who may search a directory may ask for a name, and one who may also read it may be told
// names. A directory above that is closed to the user closes all of them.
func TestNamesAndLists(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []struct {
		name string
		mode os.FileMode
	}{{".", 0o755}, {"open", 0o755}, {"search", 0o711}, {"closed", 0o700}, {"closed/open", 0o755}} {
		path := filepath.Join(dir, d.name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, d.mode); err != nil {
			t.Fatal(err)
		}
	}
	opened := 0
	c := New(func(name string) (int, error) {
		opened++
		return unix.Open(filepath.Join(dir, name), unix.O_PATH|unix.O_DIRECTORY, 0)
	}, nil)
	stranger := User{UID: uint32(os.Geteuid()) + 12345, groups: []uint32{12345}}
	for _, want := range []struct {
		name         string
		names, lists bool
	}{
		{"x.lock", true, true}, {"open/x.lock", true, true}, {"search/x.lock", true, false},
		{"closed/x.lock", false, false}, {"closed/open/x.lock", false, false},
	} {
		names, lists := c.Names(stranger, want.name), c.Lists(stranger, want.name)
		if names != want.names || lists != want.lists {
			t.Errorf("%s: names %t, lists %t", want.name, names, lists)
		}
	}
	before := opened
	if c.Names(stranger, "open/y.lock"); opened != before {
		t.Error("the answer about a directory is not remembered")
	}
	if !c.Lists(User{}, "closed/x.lock") {
		t.Error("root is refused")
	}
}
