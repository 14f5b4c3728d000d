//go:build linux

package handover

// MaxText is the length in bytes of the longest text that can be stored.
const MaxText = 256

// AddText stores a text and the number that belongs to it. It returns the number of the text, 0 if it is longer than
// MaxText or the table is full.
func (t *Tables) AddText(of uint64, text []byte) (number uint32) {
	if len(text) > MaxText {
		return 0
	}
	for end := len(text); ; {
		from := max(0, (end-1)/len(textRow{}.text)*len(textRow{}.text))
		row := t.texts.Take()
		row.of, row.size, row.next = of, uint32(len(text)-from), number
		copy(row.text[:], text[from:end])
		row.used.Store(1)
		before := number
		if number = t.texts.number(row); number == 0 {
			t.DropText(before)
		}
		if end = from; end == 0 || number == 0 {
			return number
		}
	}
}

// DropText frees a text. It ignores the number 0.
func (t *Tables) DropText(number uint32) {
	for row := t.texts.at(number); row != nil; row = t.texts.at(number) {
		number = row.next
		row.used.Store(0)
		t.texts.Give(row)
	}
}

// Text returns a text and the number that belongs to it, nil for 0.
func (t *Tables) Text(number uint32) (of uint64, text []byte) {
	row := t.texts.at(number)
	if row == nil {
		return 0, nil
	}
	of = row.of
	for ; row != nil && len(text) < MaxText; row = t.texts.at(row.next) {
		text = append(text, row.text[:min(int(row.size), len(row.text))]...)
	}
	return of, text
}

// UsedTexts is a set of texts.
type UsedTexts []bool

// NewUsedTexts returns an empty set.
func (t *Tables) NewUsedTexts() UsedTexts { return make(UsedTexts, t.Head.textsUsed.Load()+1) }

// KeepTexts frees the texts that are not in used. A server that was killed leaves texts behind that no row refers to.
func (t *Tables) KeepTexts(used UsedTexts) {
	for number := range used {
		if !used[number] {
			continue
		}
		for row := t.texts.at(uint32(number)); row != nil && row.next != 0 && !used[row.next]; row = t.texts.at(row.next) {
			used[row.next] = true
		}
	}
	t.texts.Each(func(row *textRow) {
		if row.used.Load() != 0 && !used[t.texts.number(row)] {
			row.used.Store(0)
			t.texts.Give(row)
		}
	})
}
