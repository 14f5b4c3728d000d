package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// The operations: what a record does when it is replayed. A record that is replayed twice, or onto a newer state,
// and is followed by all records after it, ends in the same state. Compaction relies on that.
const (
	opPutFirst   = 1 // a lock made with O_EXCL, as the first version of latchfs wrote it
	opDelete     = 2 // a lock of that name and generation is gone
	opGeneration = 3 // generations up to this one have been given out
	opPutSecond  = 4 // a lock is as described, in the form of the second version
	opPut        = 5 // a lock is as described
	opSettle     = 6 // the file of that name is no lock, as long as it is the same file
	opUnsettle   = 7 // the last opSettle of that name no longer counts
)

var errShortRecord = errors.New("record ends early")

// appendPut appends that a lock is as described but for its name.
func appendPut(b []byte, l *authority.Record, name string) []byte {
	b = append(b, opPut)
	b = appendString(b, name)
	b = binary.AppendUvarint(b, l.Generation)
	b = binary.AppendVarint(b, l.Made.UnixNano())
	b = appendString(b, l.Origin.BootID)
	b = appendString(b, l.Origin.MachineID)
	b = appendProcess(b, l.Creator)
	b = appendProcess(b, l.Holder)
	b = appendString(b, string(l.Rule))
	b = appendString(b, string(l.Kind))
	b = binary.AppendUvarint(b, l.Origin.Namespace.Inode)
	b = binary.AppendUvarint(b, l.Origin.Namespace.Started)
	b = binary.AppendUvarint(b, uint64(len(l.Ancestors)))
	for i := range l.Ancestors {
		b = appendProcess(b, &l.Ancestors[i])
	}
	flags := byte(0)
	if l.Left {
		flags |= flagLeft
	}
	if l.Furnished {
		flags |= flagFurnished
	}
	return append(b, flags)
}

// The flags at the end of a lock.
const (
	flagLeft = 1 << iota
	flagFurnished
)

func appendSettle(b []byte, name string, file authority.Settled) []byte {
	b = append(b, opSettle)
	b = appendString(b, name)
	b = binary.AppendUvarint(b, uint64(file.UID))
	b = appendString(b, file.Identity)
	return append(b, file.Sum[:]...)
}

func appendUnsettle(b []byte, name string) []byte {
	return appendString(append(b, opUnsettle), name)
}

func appendDelete(b []byte, name string, generation uint64) []byte {
	b = append(b, opDelete)
	b = appendString(b, name)
	return binary.AppendUvarint(b, generation)
}

func appendGeneration(b []byte, generation uint64) []byte {
	return binary.AppendUvarint(append(b, opGeneration), generation)
}

func appendProcess(b []byte, p *bootid.Process) []byte {
	b = appendString(b, p.BootID)
	b = binary.AppendVarint(b, int64(p.PID))
	b = binary.AppendUvarint(b, p.StartTime)
	b = binary.AppendUvarint(b, p.PIDNamespace)
	b = binary.AppendVarint(b, int64(p.NSPID))
	b = binary.AppendUvarint(b, uint64(p.UID))
	b = binary.AppendUvarint(b, uint64(p.Group))
	b = binary.AppendUvarint(b, uint64(p.Session))
	return appendString(b, p.Command)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// nobody is the process that is not known.
var nobody bootid.Process

// interned holds one copy of what many records have in common.
type interned struct {
	strings map[string]string
	origins map[authority.Origin]*authority.Origin
	// processes has each process by its encoding.
	processes map[string]*bootid.Process
	// The last ones: most often the next record has the same.
	origin  *authority.Origin
	process *bootid.Process
	encoded []byte // of process
}

func newInterned() *interned {
	return &interned{
		strings: make(map[string]string),
		origins: make(map[authority.Origin]*authority.Origin), origin: new(authority.Origin),
		processes: map[string]*bootid.Process{string(appendProcess(nil, &nobody)): &nobody},
	}
}

func (i *interned) string(b []byte) string {
	s, ok := i.strings[string(b)]
	if !ok {
		s = string(b)
		i.strings[s] = s
	}
	return s
}

func (i *interned) originOf(boot, machine []byte, namespace bootid.Namespace) *authority.Origin {
	last := i.origin
	if last.BootID == string(boot) && last.MachineID == string(machine) && last.Namespace == namespace {
		return last
	}
	at := authority.Origin{BootID: string(boot), MachineID: string(machine), Namespace: namespace}
	if i.origin = i.origins[at]; i.origin == nil {
		i.origin = &at
		i.origins[at] = &at
	}
	return i.origin
}

// decoder reads one record; the first error sticks.
type decoder struct {
	rest     []byte
	err      error
	interned *interned
	op       byte // of the record: it tells in which of two forms processes are written
}

// lock reads a lock of any version.
func (d *decoder) lock() (l authority.Record) {
	l.Name, l.Generation, l.Made = string(d.bytes()), d.uvarint(), time.Unix(0, d.varint())
	boot, machine := d.bytes(), d.bytes()
	l.Creator, l.Holder = d.shared(), d.shared()
	rule, kind := d.bytes(), []byte(verdict.KindCreate)
	var namespace bootid.Namespace
	if d.op != opPutFirst {
		kind = d.bytes()
		namespace = bootid.Namespace{Inode: d.uvarint(), Started: d.uvarint()}
		// A process takes at least one byte, so that a false number allocates nothing.
		if n := d.uvarint(); n > uint64(len(d.rest)) {
			d.fail()
		} else {
			for range n {
				l.Ancestors = append(l.Ancestors, d.process())
			}
		}
	}
	if d.op == opPut {
		flags := d.byte()
		l.Left, l.Furnished = flags&flagLeft != 0, flags&flagFurnished != 0
	}
	if d.err != nil {
		return l
	}
	k, r := indexOf(verdict.Kinds[:], kind), indexOf(verdict.Rules[:], rule)
	if k < 0 || r < 0 {
		d.err = fmt.Errorf("kind %q, rule %q: %w", string(kind), string(rule), ErrNewerFormat)
		return l
	}
	l.Kind, l.Rule = verdict.Kinds[k], verdict.Rules[r]
	l.Origin = d.interned.originOf(boot, machine, namespace)
	return l
}

// indexOf returns the position of a text among all, or -1.
func indexOf[T ~string](all []T, text []byte) int {
	return slices.IndexFunc(all, func(t T) bool { return string(t) == string(text) })
}

// shared reads a process and returns the one copy that all records have of it.
func (d *decoder) shared() *bootid.Process {
	from := d.rest
	d.bytes()
	for range d.processNumbers() {
		d.uvarint()
	}
	d.bytes()
	encoded := from[:len(from)-len(d.rest)]
	switch i := d.interned; {
	case d.err != nil:
		return &nobody
	case i.process != nil && bytes.Equal(encoded, i.encoded):
	default:
		if i.process = i.processes[string(encoded)]; i.process == nil {
			p := (&decoder{rest: encoded, interned: i, op: d.op}).process()
			i.process = &p
			i.processes[string(encoded)] = &p
		}
		i.encoded = append(i.encoded[:0], encoded...)
	}
	return d.interned.process
}

// processNumbers returns how many numbers are in a process between its boot id and its command.
func (d *decoder) processNumbers() int {
	if d.op == opPut {
		return 7
	}
	return 5
}

func (d *decoder) process() bootid.Process {
	p := bootid.Process{
		BootID:       d.string(),
		PID:          int(d.varint()),
		StartTime:    d.uvarint(),
		PIDNamespace: d.uvarint(),
		NSPID:        int(d.varint()),
		UID:          uint32(d.uvarint()),
	}
	if d.op == opPut {
		p.Group, p.Session = int(d.uvarint()), int(d.uvarint())
	}
	p.Command = d.string()
	return p
}

// settled reads what appendSettle wrote behind the operation.
func (d *decoder) settled() (name string, file authority.Settled) {
	name, file.UID, file.Identity = string(d.bytes()), uint32(d.uvarint()), string(d.bytes())
	if len(d.rest) < len(file.Sum) {
		d.fail()
		return name, file
	}
	d.rest = d.rest[copy(file.Sum[:], d.rest):]
	return name, file
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
