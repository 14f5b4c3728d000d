//go:build linux

package backing

import (
	"testing"

	"golang.org/x/sys/unix"
)

// openAll opens as many files as a user may, at lock names or not, but at most 10,000. It returns their number.
func openAll(d *descriptors, uid uint32, lockNamed bool, inodes int) (n int) {
	for ; n < 10_000 && d.take(uid, lockNamed, inodes) == nil; n++ {
	}
	return n
}

// TestNobodyOpensAllThereIs: each user leaves a share for the next one, and files at lock names have a reserve.
func TestNobodyOpensAllThereIs(t *testing.T) {
	d := descriptors{Limit: 1000}
	left := 1000 - 100 - d.share(reservedShare)
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
	if err := d.take(0, false, 100); err != unix.ENFILE || d.refused != refused+1 {
		t.Errorf("%v, %d refusals after %d", err, d.refused, refused)
	}
	for d.byUser[0] > 0 {
		d.Give(0)
	}
	if err := d.take(1, false, 100); err != nil {
		t.Errorf("what one user gave back is not another's: %v", err)
	}
}

// TestUnknownLimitRefusesNobody: if the limit is unknown, only the kernel refuses files.
func TestUnknownLimitRefusesNobody(t *testing.T) {
	if n := openAll(new(descriptors), 1, false, 100); n != 10_000 {
		t.Errorf("%d", n)
	}
}

// TestEveryOpenFileIsCounted: an open file counts for the user that opened it until it is closed, in the next server
// too.
func TestEveryOpenFileIsCounted(t *testing.T) {
	d := descriptors{Limit: 100}
	d.took(5)
	if err := d.take(5, false, 0); err != nil || d.open != 2 || d.byUser[5] != 2 {
		t.Fatalf("%v: %d open, %v", err, d.open, d.byUser)
	}
	d.Give(5)
	d.Give(5)
	if d.open != 0 || len(d.byUser) != 0 {
		t.Errorf("%d open, %v", d.open, d.byUser)
	}
}
