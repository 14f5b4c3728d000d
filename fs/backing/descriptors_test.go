//go:build linux

package backing

import (
	"testing"

	"golang.org/x/sys/unix"
)

// openAll opens as many files as a user may, which have lock names or not, at most 10,000.
func openAll(d *descriptors, uid uint32, lockNamed bool, inodes int) (n int) {
	for ; n < 10_000 && d.admit(uid, lockNamed, inodes) == nil; n++ {
		d.Took(uid)
	}
	return n
}

// TestNobodyOpensAllThereIs: each user leaves the next one a share, and files at lock names have a reserve.
func TestNobodyOpensAllThereIs(t *testing.T) {
	d := descriptors{Limit: 1000}
	left := 1000 - d.share(leastPinnedShare) - d.share(reservedShare)
	for uid := range uint32(3) {
		n := openAll(&d, uid, false, 100)
		if most := left * openShare / (openShare + 1); n < most || n > most+1 {
			t.Errorf("user %d opened %d of %d", uid, n, left)
		}
		left -= n
	}
	if n := openAll(&d, 7, true, 100); n < 100 {
		t.Errorf("%d files at lock names", n)
	}
	refused := d.refused
	if err := d.admit(0, false, 100); err != unix.ENFILE || d.refused != refused+1 {
		t.Errorf("%v, %d refusals after %d", err, d.refused, refused)
	}
	for d.byUser[0] > 0 {
		d.gave(0)
	}
	if err := d.admit(1, false, 100); err != nil {
		t.Errorf("what one user gave back is not another's: %v", err)
	}
}

// TestUnknownLimitRefusesNobody: if the limit is unknown, only the kernel refuses descriptors.
func TestUnknownLimitRefusesNobody(t *testing.T) {
	if n := openAll(new(descriptors), 1, false, 100); n != 10_000 {
		t.Errorf("%d", n)
	}
}
