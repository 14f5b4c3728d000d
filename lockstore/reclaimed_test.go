package lockstore

import "testing"

// TestNobodyPushesOutWhatIsKeptOfOthers: room is made by who takes most of it.
func TestNobodyPushesOutWhatIsKeptOfOthers(t *testing.T) {
	of := func(size int64, uids ...uint32) *reclaimed {
		r := &reclaimed{}
		for _, uid := range uids {
			r.files = append(r.files, Reclaimed{UID: uid, Size: size})
			r.bytes += size
		}
		return r
	}
	for _, c := range []struct {
		kept *reclaimed
		want int
	}{
		{of(1, 2, 2, 1, 1, 1, 2, 1), 2},
		{of(1, 0), 0},
		{of(maxReclaimedBytes/4, 1, 2, 3, 3, 3), 2},
	} {
		if got := c.kept.victim(); got != c.want {
			t.Errorf("%+v: %d makes room, not %d", c.kept.files, got, c.want)
		}
	}
	few := of(1, 7, 7, 7)
	few.files = append(few.files, Reclaimed{UID: 8, Size: 2 * maxReclaimedBytes})
	few.bytes += 2 * maxReclaimedBytes
	if got := few.victim(); got != 3 {
		t.Errorf("%d makes room, not the one that is too large", got)
	}
}
