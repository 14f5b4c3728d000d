package lockstore

import (
	"strings"
	"testing"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// script is a shell, 20, that a session's first process, 1, started by way of 10 and that
// runs a command, 30.
func script(w *world) (shell, command bootid.Process) {
	w.run(1, 1, 0)
	w.run(10, 10, 0)
	shell, command = w.run(20, 20, 0), w.run(30, 30, 0)
	w.parents = map[int]int{10: 1, 20: 10, 30: 20}
	return shell, command
}

func TestScriptHoldsWhatItsCommandMade(t *testing.T) {
	for kind, file := range map[verdict.Kind]FileType{verdict.KindMkdir: Directory, verdict.KindLink: Regular} {
		w := newWorld(t)
		shell, mkdir := script(w)
		other := w.run(40, 40, 0)
		w.make(name, kind, mkdir, file, "")
		w.end(mkdir, bootid.ExitSuccess, true)
		if e, _ := w.entry(name); !w.visible(name) || e.Holder.PID != shell.PID || e.Judgment.Rule != verdict.RuleAncestor {
			t.Errorf("%s: %+v", kind, e)
		}
		if w.admitted(name, other) || !w.admitted(name, shell) {
			t.Errorf("%s: another may remove it, or the script may not", kind)
		}
		w.restart()
		if e, _ := w.entry(name); e.Holder.PID != shell.PID || e.Verdict != verdict.Live {
			t.Errorf("%s: after a restart %+v", kind, e)
		}
		w.end(shell, bootid.ExitSignal, true)
		if w.visible(name) {
			t.Errorf("%s: the script was killed, its lock is there", kind)
		}
	}
}

// TestCopiedDirectoryIsNotTheShells: cp(1) makes the directory and what is in it, mkdir(1) the directory alone.
func TestCopiedDirectoryIsNotTheShells(t *testing.T) {
	for _, copied := range []bool{true, false} {
		w := newWorld(t)
		shell, maker := script(w)
		w.make(name, verdict.KindMkdir, maker, Directory, "")
		writer := shell
		if copied {
			writer = maker
		}
		w.store.Writing(name, w.store.Writer(writer, false))
		w.files.put(name+"/note", "some words\n", w.now())
		w.store.Written(name, &CachedJudgment{})
		w.restart()
		w.end(maker, bootid.ExitSuccess, true)
		if e, held := w.entry(name); !w.visible(name) || held && e.Verdict == verdict.Live == copied {
			t.Errorf("copied %v: %+v", copied, e)
		}
	}
}

func TestSubshellPassesTheLockOn(t *testing.T) {
	w := newWorld(t)
	shell, mkdir := script(w)
	w.make(name, verdict.KindMkdir, mkdir, Directory, "")
	w.end(mkdir, bootid.ExitSuccess, true)
	w.end(shell, bootid.ExitSuccess, true)
	if e, _ := w.entry(name); !w.visible(name) || e.Holder.PID != 10 {
		t.Errorf("%+v", e)
	}
	w.end(w.processes[10], bootid.ExitSuccess, true)
	if e, _ := w.entry(name); !w.visible(name) || e.Verdict != verdict.Unknown {
		t.Errorf("without an ancestor: %+v", e)
	}
	w.advance(2 * time.Hour)
	if w.visible(name) {
		t.Error("it is too old")
	}
}

func TestScriptKilledBeforeItsCommandEnds(t *testing.T) {
	w := newWorld(t)
	shell, mkdir := script(w)
	w.make(name, verdict.KindMkdir, mkdir, Directory, "")
	w.end(shell, bootid.ExitSignal, true)
	if !w.visible(name) {
		t.Error("its creator runs")
	}
	w.end(mkdir, bootid.ExitSuccess, true)
	if w.visible(name) {
		t.Error("held by the shell that the killed script was started from")
	}
}

func TestKilledCommandLeavesNothing(t *testing.T) {
	w := newWorld(t)
	_, mkdir := script(w)
	w.make(name, verdict.KindMkdir, mkdir, Directory, "")
	w.end(mkdir, bootid.ExitSignal, true)
	if w.visible(name) {
		t.Error("a lock directory of a killed creator is there")
	}
}

func TestDataSettlesWhenMade(t *testing.T) {
	for kind, file := range map[verdict.Kind]FileType{verdict.KindLink: Regular, verdict.KindRename: Regular, verdict.KindSymlink: Symlink} {
		w := newWorld(t)
		p := w.run(10, 100, 0)
		w.make(name, kind, p, file, "../other/yarn.lock")
		if _, held := w.entry(name); held || !w.visible(name) {
			t.Errorf("%s: it is a lock", kind)
		}
	}
}

// TestDirectoryIsALockWithAFewNotes: a lock directory may have a few short texts in it. Anything more is
// data.
func TestDirectoryIsALockWithAFewNotes(t *testing.T) {
	for what, add := range map[string]func(w *world){
		"a fifth text":     func(w *world) { w.files.put(name+"/5", "", w.now()) },
		"a directory":      func(w *world) { delete(w.files.files, name+"/4"); w.files.make(name+"/dir", Directory, "", w.now()) },
		"a long text":      func(w *world) { w.files.put(name+"/4", strings.Repeat("x", 4097), w.now()) },
		"what is no text":  func(w *world) { w.files.put(name+"/4", "\x00\x01", w.now()) },
		"a copy of a lock": func(w *world) { w.files.put(name+"/4", "999 1764000000\n", w.now()) },
	} {
		w := newWorld(t)
		p := w.run(10, 100, 0)
		w.make(name, verdict.KindMkdir, p, Directory, "")
		for _, note := range []string{"1", "2", "3", "4"} {
			w.files.put(name+"/"+note, "a few words\n", w.now())
		}
		w.store.Written(name, &CachedJudgment{})
		if e, held := w.entry(name); !held || e.Holder.PID != 10 {
			t.Errorf("with four notes: %+v", e)
		}
		add(w)
		w.store.Written(name, &CachedJudgment{})
		if _, held := w.entry(name); held || !w.visible(name) {
			t.Errorf("with %s: it is still a lock", what)
		}
	}
}

// TestDirectoryThatNamesItsHolderMayHoldMore than one that does not.
func TestDirectoryThatNamesItsHolderMayHoldMore(t *testing.T) {
	w := newWorld(t)
	p := w.run(500, 100, 0)
	w.make(name, verdict.KindMkdir, p, Directory, "")
	for _, note := range []string{"1", "2", "3", "4", "5"} {
		w.files.put(name+"/"+note, strings.Repeat("x", 5000), w.now())
	}
	w.files.put(name+"/pid", "500\n", w.now())
	w.store.Written(name, &CachedJudgment{})
	if e, _ := w.entry(name); e.Holder.PID != 500 || e.Judgment.Rule != verdict.RuleNamed {
		t.Errorf("%+v", e)
	}
}

func TestFileInADirectoryNamesTheHolder(t *testing.T) {
	for entry, text := range map[string]string{"owner.json": `{"pid":500}`, "owner": "500 1764000000\n", "info": "taken by 500\n", "500": "", "host-500": ""} {
		w := newWorld(t)
		shell, mkdir := script(w)
		daemon := w.run(500, 50, 0)
		w.parents[500] = shell.PID
		w.make(name, verdict.KindMkdir, mkdir, Directory, "")
		w.end(mkdir, bootid.ExitSuccess, true)
		w.files.put(name+"/"+entry, text, w.now())
		w.files.put(name+"/note", "read this\n", w.now())
		w.store.Written(name, &CachedJudgment{})
		if e, _ := w.entry(name); e.Holder.PID != daemon.PID || e.Judgment.Rule != verdict.RuleNamed {
			t.Errorf("%s: %+v", entry, e)
		}
		w.end(daemon, bootid.ExitSignal, true)
		if w.visible(name) {
			t.Errorf("%s: its holder was killed; the script never was the holder", entry)
		}
		if kept := w.store.Reclaimed(); len(kept) != 1 || kept[0].Size == 0 {
			t.Errorf("%s: kept %+v", entry, kept)
		}
	}
}

// TestTextThatMayNameSomebody: host-pid and the like are a name only when that process is
// there.
func TestTextThatMayNameSomebody(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.take("data.lock", p, "node-20\n")
	if _, held := w.entry("data.lock"); held || !w.visible("data.lock") {
		t.Error("text with a number in it is a lock")
	}
	w.take("a.lock", p, "here:10\n")
	w.make("b.lock", verdict.KindSymlink, p, Symlink, "me@here.10:1764000000")
	w.restart()
	for _, lock := range []string{"a.lock", "b.lock"} {
		if e, _ := w.entry(lock); e.Holder.PID != 10 || e.Judgment.Rule != verdict.RuleNamed {
			t.Errorf("%s: %+v", lock, e)
		}
	}
	w.end(p, bootid.ExitFailure, true)
	if w.visible("a.lock") || w.visible("b.lock") {
		t.Error("their holder has ended")
	}
}

func TestPIDFile(t *testing.T) {
	w := newWorld(t)
	daemon, other, next := w.run(10, 100, 0), w.run(11, 100, 0), w.run(12, 100, 0)
	seen := &CachedJudgment{}
	w.files.put(name, "10\n", w.now())
	seen.WrittenBy(w.store.Writer(daemon, true))
	w.store.Written(name, seen)
	if e, _ := w.entry(name); e.Kind != verdict.KindPIDFile || e.Holder.PID != 10 {
		t.Fatalf("%+v", e)
	}
	admit := func(p bootid.Process, attempt Attempt) bool {
		nameLock := w.store.Enter(name)
		defer nameLock.Leave()
		return nameLock.Admit(func() bootid.Process { return p }, attempt) == nil
	}
	if admit(other, Removing) || admit(other, Replacing) || !admit(other, Truncating) || !admit(other, Writing) || !admit(daemon, Removing) {
		t.Error("a pid file is protected from removal and replacement, no more")
	}
	// Others wait for it with flock(2).
	w.files.opened = map[string]bool{name: true}
	w.end(daemon, bootid.ExitSignal, true)
	if !w.visible(name) {
		t.Fatal("it was removed under those who have it open")
	}
	w.files.put(name, "12\n", w.now())
	seen.WrittenBy(w.store.Writer(next, true))
	w.store.Written(name, seen)
	if e, _ := w.entry(name); e.Kind != verdict.KindPIDFile || e.Holder.PID != 12 || e.Verdict != verdict.Live {
		t.Errorf("taken over as %+v", e)
	}
	w.files.opened = nil
	w.end(next, bootid.ExitSignal, true)
	if w.visible(name) {
		t.Error("its holder is dead and nobody has it open")
	}
}

func TestOrdinaryFileThatNamesAnother(t *testing.T) {
	w := newWorld(t)
	p, other := w.run(10, 100, 0), w.run(11, 100, 0)
	for _, payload := range []string{"11\n", "99\n", "data\n", ""} {
		seen := &CachedJudgment{}
		w.files.put(name, payload, w.now())
		seen.WrittenBy(w.store.Writer(p, true))
		w.store.Written(name, seen)
		if _, held := w.entry(name); held {
			t.Errorf("%q: it is a lock", payload)
		}
	}
	_ = other
}

func TestCloseEndsALock(t *testing.T) {
	w := newWorld(t)
	w.store.attributes = func(lock string) Attributes { return Attributes{Close: lock == name} }
	p := w.run(10, 100, 0)
	w.take(name, p, "10\n")
	w.take("other.lock", p, "10\n")
	if w.visible(name) || !w.visible("other.lock") {
		t.Error("it is there after the last close, or the other is not")
	}
}

func TestOperatorReleases(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 1000)
	w.take(name, p, "10\n")
	for _, c := range []struct {
		operator Operator
		done     bool
	}{
		{Operator{UID: 1001}, false}, {Operator{UID: 1001, Force: true}, false},
		{Operator{UID: 0, Opener: 1001, Force: true}, false}, {Operator{UID: 1001, Opener: 0, Force: true}, false},
		{Operator{UID: 1000}, false}, {Operator{UID: 0}, false}, {Operator{UID: 1000, Opener: 1000, Force: true}, true},
	} {
		w.files.files[name].uid = 1000
		err := w.store.ReleaseFor(name, c.operator)
		if (err == nil) != c.done || w.files.has(name) == c.done {
			t.Errorf("%+v: %v", c.operator, err)
		}
	}
	if kept := w.store.Reclaimed(); len(kept) != 1 || kept[0].Reason != "" {
		t.Errorf("%+v", kept)
	}
	if err := w.store.ReleaseFor(name, Operator{}); err == nil {
		t.Error("released what is not there")
	}
}

func TestStrangersAreTheOthers(t *testing.T) {
	w := newWorld(t)
	shell, command := script(w)
	other := w.run(40, 40, 0)
	w.take(name, shell, "20\n")
	for pid, want := range map[int]bool{shell.PID: false, command.PID: false, 10: false, other.PID: true} {
		nameLock := w.store.Enter(name)
		if nameLock.Stranger(func() bootid.Process { return w.processes[pid] }) != want {
			t.Errorf("process %d: a stranger %v", pid, !want)
		}
		nameLock.Leave()
	}
}

// A script's second command may come before the word that its first one has ended.
func TestTheNextCommandIsNoStranger(t *testing.T) {
	w := newWorld(t)
	shell, mkdir := script(w)
	w.make(name, verdict.KindMkdir, mkdir, Directory, "")
	w.end(mkdir, bootid.ExitSuccess, false)
	touch := w.run(31, 31, 0)
	w.parents[touch.PID] = shell.PID
	nameLock := w.store.Enter(name)
	defer nameLock.Leave()
	if nameLock.Stranger(func() bootid.Process { return touch }) {
		t.Error("it is a stranger")
	}
}

func TestHiddenNamedProcessIsUnknown(t *testing.T) {
	w := newWorld(t)
	p := w.run(10, 100, 0)
	w.hidden[20] = true
	w.take(name, p, "20\n")
	w.end(p, bootid.ExitSuccess, true)
	if e, _ := w.entry(name); !w.visible(name) || e.Verdict != verdict.Unknown {
		t.Errorf("%+v", e)
	}
}

func TestRecordOfAnotherPIDNamespace(t *testing.T) {
	initial := bootid.Namespace{Inode: 0xEFFFFFFC, Started: 1}
	first, second := bootid.Namespace{Inode: 7, Started: 100}, bootid.Namespace{Inode: 7, Started: 200}
	for _, c := range []struct {
		before, now bootid.Namespace
		unknown     bool
	}{{initial, first, true}, {first, initial, true}, {first, second, false}, {first, first, false}} {
		w := newWorld(t)
		w.namespace = c.before
		w.restart() // a latchfs stays in one namespace
		p := w.run(10, 100, 0)
		w.take(name, p, "10\n")
		w.store.Close()
		w.end(p, bootid.ExitUnknown, false)
		w.namespace = c.now
		w.open()
		if e, held := w.entry(name); held != c.unknown || held && e.Verdict != verdict.Unknown {
			t.Errorf("%+v: %+v", c, e)
		}
	}
}

// TestContainerOfAScriptEnds: the script was killed with all of its pid namespace.
func TestContainerOfAScriptEnds(t *testing.T) {
	w := newWorld(t)
	w.namespace = bootid.Namespace{Inode: 7, Started: 100}
	shell, mkdir := script(w)
	w.make(name, verdict.KindMkdir, mkdir, Directory, "")
	w.end(mkdir, bootid.ExitSuccess, true)
	w.visible(name)
	w.store.Close()
	w.end(shell, bootid.ExitUnknown, false)
	w.end(w.processes[10], bootid.ExitUnknown, false)
	w.namespace = bootid.Namespace{Inode: 7, Started: 200}
	w.open()
	if w.visible(name) {
		t.Error("it is there in the next container")
	}
}
