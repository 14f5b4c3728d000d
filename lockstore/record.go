package lockstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"latchfs/bootid"
)

// What a journal record does when it is replayed. Replaying one twice, or onto a
// state that is newer, followed by all that came after, ends in the same state:
// compaction relies on that.
const (
	opPutFirst   = 1 // a lock made with O_EXCL, as the first version of latchfs wrote it
	opDelete     = 2 // a lock of that name and generation is gone
	opGeneration = 3 // generations up to this one have been given out
	opPut        = 4 // a lock is as described
)

var errShortRecord = errors.New("record ends early")

func appendPut(b []byte, l *Lock) []byte {
	b = append(b, opPut)
	b = appendString(b, l.Name)
	b = binary.AppendUvarint(b, l.Generation)
	b = binary.AppendVarint(b, l.Made.UnixNano())
	b = appendString(b, l.BootID)
	b = appendString(b, l.MachineID)
	b = appendProcess(b, l.Creator)
	b = appendProcess(b, l.Holder)
	b = appendString(b, string(l.Rule))
	b = appendString(b, string(l.Kind))
	b = binary.AppendUvarint(b, l.Namespace.Inode)
	b = binary.AppendUvarint(b, l.Namespace.Started)
	b = binary.AppendUvarint(b, uint64(len(l.Ancestors)))
	for i := range l.Ancestors {
		b = appendProcess(b, l.Ancestors[i])
	}
	return b
}

func appendDelete(b []byte, name string, generation uint64) []byte {
	b = append(b, opDelete)
	b = appendString(b, name)
	return binary.AppendUvarint(b, generation)
}

func appendGeneration(b []byte, generation uint64) []byte {
	return binary.AppendUvarint(append(b, opGeneration), generation)
}

func appendProcess(b []byte, p bootid.Process) []byte {
	b = appendString(b, p.BootID)
	b = binary.AppendVarint(b, int64(p.PID))
	b = binary.AppendUvarint(b, p.StartTime)
	b = binary.AppendUvarint(b, p.PIDNamespace)
	b = binary.AppendVarint(b, int64(p.NSPID))
	b = binary.AppendUvarint(b, uint64(p.UID))
	return appendString(b, p.Command)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// replay applies the records in payload to locks and returns the highest
// generation given out so far. An operation that is not known was written by a newer
// version: ErrNewerFormat.
func replay(payload []byte, locks map[string]*record, generation uint64, interned *interned) (uint64, error) {
	d := decoder{rest: payload, interned: interned}
	for len(d.rest) > 0 && d.err == nil {
		switch op := d.byte(); op {
		case opPut, opPutFirst:
			r := &record{kept: d.lock(op == opPut)}
			if d.err == nil {
				locks[r.Name] = r
				generation = max(generation, r.Generation)
			}
		case opDelete:
			name, gone := d.bytes(), d.uvarint()
			if r := locks[string(name)]; r != nil && d.err == nil && r.Generation == gone {
				delete(locks, r.Name)
			}
		case opGeneration:
			generation = max(generation, d.uvarint())
		default:
			return generation, fmt.Errorf("operation %d: %w", op, ErrNewerFormat)
		}
	}
	return generation, d.err
}

// interned is what many records have in common, once.
type interned struct {
	strings   map[string]string
	origins   map[origin]*origin
	processes map[bootid.Process]*bootid.Process
}

func newInterned() *interned {
	return &interned{make(map[string]string), make(map[origin]*origin), map[bootid.Process]*bootid.Process{nobody: &nobody}}
}

func (i *interned) string(b []byte) string {
	s, ok := i.strings[string(b)]
	if !ok {
		s = string(b)
		i.strings[s] = s
	}
	return s
}

// intern returns the pointer that stands for a value in known.
func intern[T comparable](known map[T]*T, value T) *T {
	p := known[value]
	if p == nil {
		own := value
		p = &own
		known[value] = p
	}
	return p
}

// decoder reads one record; the first error sticks.
type decoder struct {
	rest     []byte
	err      error
	interned *interned
}

// lock reads a lock, as the first version of latchfs wrote it or as a whole.
func (d *decoder) lock(whole bool) kept {
	l := kept{Name: string(d.bytes()), Generation: d.uvarint(), made: time.Duration(d.varint())}
	at := origin{BootID: d.string(), MachineID: d.string()}
	creator, holder := d.process(), d.process()
	rule, kind := Rule(d.string()), KindCreate
	if whole {
		kind = Kind(d.string())
		at.Namespace = bootid.Namespace{Inode: d.uvarint(), Started: d.uvarint()}
		// A process takes at least one byte, so that a false number allocates nothing.
		if n := d.uvarint(); n > uint64(len(d.rest)) {
			d.fail()
		} else {
			var ancestors []bootid.Process
			for range n {
				ancestors = append(ancestors, d.process())
			}
			if n > 0 {
				l.lineage = &lineage{processes: ancestors}
			}
		}
	}
	if d.err == nil && (!slices.Contains(kinds[:], kind) || !slices.Contains(rules[:], rule)) {
		d.err = fmt.Errorf("kind %q, rule %q: %w", kind, rule, ErrNewerFormat)
	}
	if d.err == nil {
		l.kind, l.rule = numberOf(kinds[:], kind), numberOf(rules[:], rule)
		l.origin = intern(d.interned.origins, at)
		l.Creator, l.Holder = intern(d.interned.processes, creator), intern(d.interned.processes, holder)
	}
	return l
}

func (d *decoder) process() bootid.Process {
	return bootid.Process{
		BootID:       d.string(),
		PID:          int(d.varint()),
		StartTime:    d.uvarint(),
		PIDNamespace: d.uvarint(),
		NSPID:        int(d.varint()),
		UID:          uint32(d.uvarint()),
		Command:      d.string(),
	}
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) string() string { return d.interned.string(d.bytes()) }

func (d *decoder) fail() {
	d.err, d.rest = errShortRecord, nil
}
