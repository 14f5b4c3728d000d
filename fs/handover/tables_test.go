//go:build linux

package handover

import (
	"strings"
	"testing"
	"unsafe"
)

// TestLayoutOfVersion5: the tables of a running server are read by the next version, so their layout is part of the
// format. A change of it needs a new tablesVersion.
func TestLayoutOfVersion5(t *testing.T) {
	for name, sizes := range map[string][2]uintptr{
		"Head":      {unsafe.Sizeof(Head{}), 680},
		"InodeRow":  {unsafe.Sizeof(InodeRow{}), 56},
		"HandleRow": {unsafe.Sizeof(HandleRow{}), 104},
		"textRow":   {unsafe.Sizeof(textRow{}), 64},
		"watchRow":  {unsafe.Sizeof(watchRow{}), 24},
		"intentRow": {unsafe.Sizeof(intentRow{}), 608},
		"lookupRow": {unsafe.Sizeof(lookupRow{}), 16},
	} {
		if sizes[0] != sizes[1] {
			t.Errorf("%s has %d bytes, not %d", name, sizes[0], sizes[1])
		}
	}
	for name, offsets := range map[string][2]uintptr{
		"Head.Device":      {unsafe.Offsetof(Head{}.Device), 76},
		"Head.LastBacking": {unsafe.Offsetof(Head{}.LastBacking), 136},
		"Head.InitReply":   {unsafe.Offsetof(Head{}.InitReply), 420},
		"InodeRow.Handle":  {unsafe.Offsetof(InodeRow{}.Handle), 52},
		"HandleRow.Writer": {unsafe.Offsetof(HandleRow{}.Writer), 32},
		"HandleRow.User":   {unsafe.Offsetof(HandleRow{}.User), 100},
		"intentRow.dir":    {unsafe.Offsetof(intentRow{}.dir), 40},
		"intentRow.size":   {unsafe.Offsetof(intentRow{}.size), 600},
	} {
		if offsets[0] != offsets[1] {
			t.Errorf("%s is at %d, not %d", name, offsets[0], offsets[1])
		}
	}
	if tablesSize() != 885395456 {
		t.Errorf("the tables have %d bytes", tablesSize())
	}
}

// TestTexts: a stored text of any length is read again, and its rows are used again.
func TestTexts(t *testing.T) {
	tables, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	all := strings.Repeat("0123456789", 30)
	for round := range 2 {
		var numbers []uint32
		for length := range MaxText + 1 {
			numbers = append(numbers, tables.AddText(uint64(length), []byte(all[:length])))
		}
		for length, number := range numbers {
			if of, text := tables.Text(number); number == 0 || of != uint64(length) || string(text) != all[:length] {
				t.Fatalf("%d bytes became %q of %d", length, text, of)
			}
		}
		if number := tables.AddText(0, []byte(all[:MaxText+1])); number != 0 {
			t.Errorf("a text of %d bytes has number %d", MaxText+1, number)
		}
		if round == 0 {
			for _, number := range numbers[:100] {
				tables.DropText(number)
			}
			used := tables.NewUsedTexts()
			used[numbers[200]] = true
			tables.KeepTexts(used)
			if _, text := tables.Text(numbers[200]); string(text) != all[:200] {
				t.Errorf("a text in use became %q", text)
			}
			tables.DropText(numbers[200])
		}
	}
	if used, most := tables.Head.textsUsed.Load(), uint32(2+257*6); used > most {
		t.Errorf("%d rows for what takes at most %d at a time", used, most)
	}
}
