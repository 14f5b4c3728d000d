package lockstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// machine is a made-up bootid.System: a boot, a process table, a clock.
type machine struct {
	mu        sync.Mutex
	boot      bootid.Boot
	clock     time.Time
	processes map[int]bootid.Process
	parents   map[int]int
	started   map[int]time.Time
	exits     map[processKey]bootid.Exit
	watches   map[processKey][]func()
	elsewhere map[int]bool // pids of other namespaces
	exiting   map[int]bool
	hidden    map[int]bool
	namespace bootid.Namespace
	openers   map[string][]bootid.Process // by the suffix that is asked for
	foreign   map[int]bool                // pids of processes with another host name
}

const bootOne, bootTwo = "11111111-2222-4333-8444-555555555555", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"

func newMachine() *machine {
	return &machine{
		boot:      bootid.Boot{ID: bootOne, MachineID: "m1", Time: time.Unix(1_701_000_000, 0)},
		clock:     time.Unix(1_702_000_000, 0),
		processes: make(map[int]bootid.Process), parents: make(map[int]int), started: make(map[int]time.Time),
		exits: make(map[processKey]bootid.Exit), watches: make(map[processKey][]func()), elsewhere: make(map[int]bool),
		exiting: make(map[int]bool), hidden: make(map[int]bool), namespace: bootid.Namespace{Inode: 1, Started: 1},
		openers: make(map[string][]bootid.Process), foreign: make(map[int]bool),
	}
}

// run starts a process of a user.
func (m *machine) run(pid int, start uint64, uid uint32) bootid.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := bootid.Process{BootID: m.boot.ID, PID: pid, StartTime: start, PIDNamespace: 1, NSPID: pid, UID: uid, Command: "p", Group: pid}
	m.processes[pid], m.started[pid] = p, m.clock.Add(-time.Second)
	return p
}

// end ends one; told says whether those who watch are told.
func (m *machine) end(p bootid.Process, how bootid.Exit, told bool) {
	m.mu.Lock()
	key := processKey{p.PID, p.StartTime}
	delete(m.processes, p.PID)
	m.exits[key] = how
	watches := m.watches[key]
	m.mu.Unlock()
	if told {
		for _, ended := range watches {
			ended()
		}
	}
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clock
}

// advance lets time pass.
func (m *machine) advance(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clock = m.clock.Add(d)
}

func (m *machine) Boot() bootid.Boot { return m.boot }

func (m *machine) Process(pid int) (bootid.Process, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hidden[pid] {
		return bootid.Process{}, bootid.ErrHidden
	}
	if p, ok := m.processes[pid]; ok {
		return p, nil
	}
	return bootid.Process{}, bootid.ErrNoProcess
}

func (m *machine) InNamespace(pid int, of bootid.Process) (bootid.Process, error) {
	return m.Process(pid)
}

func (m *machine) InOtherNamespace(pid int, _ time.Time) bool { return m.elsewhere[pid] }
func (m *machine) Namespace() bootid.Namespace                { return m.namespace }
func (m *machine) NamespaceEnded(p bootid.Process) bool       { return false }
func (m *machine) Hostname() string                           { return "here" }

func (m *machine) Ancestors(p bootid.Process) (chain []bootid.Process) {
	for {
		parent, err := m.Parent(p)
		if err != nil || parent.PID == 1 {
			return chain
		}
		chain = append(chain, parent)
		p = parent
	}
}

func (m *machine) Exiting(p bootid.Process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, ok := m.processes[p.PID]
	return !ok || now.StartTime != p.StartTime || m.exiting[p.PID]
}

func (m *machine) Doomed(p bootid.Process) bool { return m.Exiting(p) }

func (m *machine) Parent(p bootid.Process) (bootid.Process, error) {
	m.mu.Lock()
	parent, ok := m.parents[p.PID]
	m.mu.Unlock()
	if !ok {
		return bootid.Process{}, bootid.ErrNoProcess
	}
	return m.Process(parent)
}

func (m *machine) StartedAt(p bootid.Process) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.started[p.PID]
}

func (m *machine) HasOpen(bootid.Process, string) bool { return false }

func (m *machine) OpenedBy(suffix string) []bootid.Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.openers[suffix]
}

func (m *machine) Relatives(p bootid.Process) (parent int, children []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pid := range m.processes {
		if m.parents[pid] == p.PID {
			children = append(children, pid)
		}
	}
	return m.parents[p.PID], children
}

func (m *machine) GroupRuns(p bootid.Process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.processes {
		if other.Group == p.Group && !(other.PID == p.Group && other.StartTime > p.StartTime) || p.Session != 0 && other.Session == p.Session {
			return true
		}
	}
	return false
}

func (m *machine) SameHost(p bootid.Process) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.foreign[p.PID] && m.processes[p.PID].Same(p)
}

func (m *machine) Watch(p bootid.Process, ended func()) (bootid.Watch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, ok := m.processes[p.PID]; !ok || now.StartTime != p.StartTime {
		return nil, bootid.ErrNoProcess
	}
	key := processKey{p.PID, p.StartTime}
	m.watches[key] = append(m.watches[key], ended)
	return &machineWatch{m, key}, nil
}

type machineWatch struct {
	machine *machine
	key     processKey
}

func (w *machineWatch) Ended() bool {
	w.machine.mu.Lock()
	defer w.machine.mu.Unlock()
	p, ok := w.machine.processes[w.key.pid]
	return !ok || p.StartTime != w.key.start
}

func (w *machineWatch) Exit() bootid.Exit {
	w.machine.mu.Lock()
	defer w.machine.mu.Unlock()
	return w.machine.exits[w.key]
}

func (w *machineWatch) Stop() {}

// directory is a made-up Files. A file whose name has another in front of it is in that
// directory.
type directory struct {
	mu     sync.Mutex
	files  map[string]*madeFile
	inode  uint64
	shared bool
	opened map[string]bool
}

type madeFile struct {
	kind    FileType
	text    string
	id      uint64
	written time.Time
	uid     uint32
}

func (d *directory) put(name, text string, written time.Time) { d.make(name, Regular, text, written) }

func (d *directory) make(name string, kind FileType, text string, written time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inode++
	if d.files == nil {
		d.files = make(map[string]*madeFile)
	}
	d.files[name] = &madeFile{kind: kind, text: text, id: d.inode, written: written}
}

func (d *directory) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.files[name] != nil
}

func (d *directory) Stat(name string) (File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return File{}, fs.ErrNotExist
	}
	return File{ID: FileID{1, f.id}, Type: f.kind, Size: int64(len(f.text)), UID: f.uid, Written: f.written, Changed: f.written}, nil
}

func (d *directory) text(name string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return "", fs.ErrNotExist
	}
	return f.text, nil
}

func (d *directory) Open(name string) (io.ReadCloser, error) {
	text, err := d.text(name)
	return io.NopCloser(strings.NewReader(text)), err
}

func (d *directory) Readlink(name string) (string, error) { return d.text(name) }

func (d *directory) Entries(name string, limit int) (names []string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.files {
		if entry, ok := strings.CutPrefix(path, name+"/"); ok && len(names) <= limit {
			names = append(names, entry)
		}
	}
	return names, nil
}

func (d *directory) Identity(name string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.files[name]
	if f == nil {
		return "", fs.ErrNotExist
	}
	return fmt.Sprint(f.id), nil
}

func (d *directory) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.files {
		if path == name || strings.HasPrefix(path, name+"/") {
			delete(d.files, path)
		}
	}
	return nil
}

func (d *directory) Move(string, string) error { return errors.ErrUnsupported }

func (d *directory) Opened(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened[name]
}

func (d *directory) Local() bool { return !d.shared }

// world is a store on a made-up machine and directory.
type world struct {
	t testing.TB
	*machine
	files *directory
	state string
	store *Store
	log   *logrus.Logger
	left  map[uint64]bool // Predecessor.Open of the next store
	// authority of the next store; nil is the journal
	authority authority.Authority
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, machine: newMachine(), files: &directory{}, state: t.TempDir(), log: logrus.New()}
	w.log.SetOutput(t.Output())
	w.open()
	t.Cleanup(func() { w.store.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	store, err := Open(Options{
		StateDir: w.state, System: w.machine, Files: w.files, StaleAfter: time.Hour, Log: w.log, Now: w.now,
		Authority: w.authority, Predecessor: Predecessor{Open: w.left},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = store
}

// restart closes the store and opens it again, as another latchfs would.
func (w *world) restart() {
	w.t.Helper()
	if err := w.store.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.machine.mu.Lock()
	w.machine.watches = make(map[processKey][]func())
	w.machine.mu.Unlock()
	w.open()
}

// reboot ends everything and starts again under another boot id.
func (w *world) reboot(processes ...bootid.Process) {
	w.t.Helper()
	if err := w.store.Close(); err != nil {
		w.t.Fatal(err)
	}
	for _, p := range processes {
		w.end(p, bootid.ExitUnknown, false)
	}
	w.boot.ID = bootTwo
	w.boot.Time = w.clock
	w.open()
}

// make makes a lock of another kind than take.
func (w *world) make(name string, kind verdict.Kind, creator bootid.Process, file FileType, text string) {
	w.t.Helper()
	nameLock := w.store.Enter(name)
	defer nameLock.Leave()
	if _, err := nameLock.Acquire(kind, creator); err != nil {
		w.t.Fatal(err)
	}
	w.files.make(name, file, text, w.now())
	nameLock.Made()
}

// take makes a lock with a payload and closes it.
func (w *world) take(name string, creator bootid.Process, payload string) {
	w.t.Helper()
	nameLock := w.store.Enter(name)
	d, err := nameLock.Acquire(verdict.KindCreate, creator)
	if err != nil {
		nameLock.Leave()
		w.t.Fatal(err)
	}
	w.files.put(name, payload, w.now())
	nameLock.Leave()
	w.store.Closed(d, w.store.Ending(d))
}

// visible looks at a name as a LOOKUP does.
func (w *world) visible(name string) bool {
	w.t.Helper()
	nameLock := w.store.Enter(name)
	defer nameLock.Leave()
	file, err := w.files.Stat(name)
	if err != nil {
		return nameLock.Look(nil, nil)
	}
	return nameLock.Look(&file, &CachedJudgment{})
}

// admitted asks whether p may remove the lock.
func (w *world) admitted(name string, p bootid.Process) bool {
	nameLock := w.store.Enter(name)
	defer nameLock.Leave()
	return nameLock.Admit(func() bootid.Process { return p }, Removing) == nil
}

// entry is what is listed of a name.
func (w *world) entry(name string) (Entry, bool) {
	for e := range w.store.All(func(string) bool { return true }) {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}
