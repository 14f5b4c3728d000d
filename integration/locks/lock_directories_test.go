//go:build linux

package integration

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLockDirectoryWithTexts: what a script writes about itself into its lock directory does not cost it the
// lock, and when the script is killed the lock is free.
func TestLockDirectoryWithTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"an owner file with pid and time", `echo "$$ $(date +%s)" >x.lock/owner`},
		{"an info file of a few words", `echo "nightly backup, do not remove" >x.lock/info`},
		{"an empty file and words", `: >x.lock/held; echo "backup" >x.lock/why`},
		{"a name with the pid", `: >x.lock/inuse.$$`},
		{"four small texts", `for name in who where when why; do echo "some words" >x.lock/$name; done`},
		{"a text of 4 KiB", `printf "%4096s" words >x.lock/info`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mountOver(t, t.TempDir())
			for _, restart := range restarts {
				contender := newLocker(t)
				s := m.startScript(`mkdir x.lock; ` + c.script + `; cd /; echo $$; exec sleep 1000`)
				restart.do(m)
				if l := m.verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.pid {
					t.Errorf("%s: the script is process %d; listed as %+v", restart.name, s.pid, l)
				}
				contender.must("EEXIST", "mkdir", m.path("x.lock"))
				if answer := contender.do("rename", m.path("x.lock"), m.path("away")); answer != "EBUSY" {
					t.Fatalf("%s: rename: %s, not EBUSY", restart.name, answer)
				}
				s.kill()
				contender.must("ok", "mkdir", m.path("x.lock"))
				contender.must("ok", "rmdir", m.path("x.lock"))
				s.end()
			}
		})
	}
}

// TestDirectoryOfMoreIsData: a directory with a fifth entry, a directory in it, or more than a small text is no
// lock: it stays when its script is killed, and anybody may take it away.
func TestDirectoryOfMoreIsData(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"a fifth entry", `for name in who where when why what; do echo "some words" >x.lock/$name; done`},
		{"a directory", `mkdir x.lock/sub`},
		{"a large file", `printf "%4097s" words >x.lock/info`},
		{"a file that is no text", `printf "\\0\\1\\377" >x.lock/info`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := mountOver(t, t.TempDir())
			stranger := newLocker(t)
			s := m.startScript(`mkdir x.lock; ` + c.script + `; cd /; echo $$; exec sleep 1000`)
			before := dumpTree(t, m.dir)
			for _, restart := range restarts {
				restart.do(m)
				eventually(t, "it is nobody's, "+restart.name, func() bool { return m.verdicts()["x.lock"].Verdict == "settled" })
			}
			s.kill()
			if l := m.verdicts()["x.lock"]; l.Verdict != "settled" {
				t.Errorf("after the script was killed: %+v", l)
			}
			compareLines(t, 0, dumpTree(t, m.dir), before)
			stranger.must("ok", "rename", m.path("x.lock"), m.path("away"))
		})
	}
}

// TestRestoredTimesMakeNoLock: what is copied with its old times is a copy. Nobody holds it, although the shell
// that copied it goes on, and its times are shown as they are. The control run does the same in a plain directory.
func TestRestoredTimesMakeNoLock(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"tar", "rsync"} {
		needProgram(t, program)
	}
	const old = 1577934245
	const backup = `mkdir backup; (cd backup
		: >empty.lock; echo some words >words.lock; echo 4111111 >dead.lock; echo $$ >own.lock
		mkdir dir.lock owned.lock info.lock; echo "$$ 1577934245" >owned.lock/owner; echo some words >info.lock/info
		touch -d @1577934245 *.lock/* *.lock)
		mkdir $to; `
	names := []string{"empty.lock", "words.lock", "dead.lock", "own.lock", "dir.lock", "owned.lock", "info.lock"}
	for _, c := range []struct{ name, restore string }{
		{"cp -a", `cp -a backup/* $to`},
		{"cp -a, one by one", `for name in backup/*; do cp -a $name $to; done`},
		{"cp -rp", `cp -rp backup/* $to`},
		{"tar", `tar -C backup -cf - . | tar -C $to -xf -`},
		{"rsync", `rsync -a backup/ $to/`},
	} {
		t.Run(c.name, func(t *testing.T) {
			plain, m := t.TempDir(), mountOver(t, t.TempDir())
			stranger := newLocker(t)
			restore := func(to string) string { return `to=` + to + `/restored; cd ` + t.TempDir() + `; ` + backup + c.restore }
			inShell(t, plain, restore(plain))
			s := m.startScript(restore(m.dir) + `; cd /; echo $$; exec sleep 1000`)
			for _, restart := range restarts {
				restart.do(m)
				verdicts := m.verdicts()
				for _, name := range names {
					if l := verdicts["restored/"+name]; l.Verdict != "settled" {
						t.Errorf("%s: %s is listed as %+v", restart.name, name, l)
					}
					for _, dir := range []string{plain, m.dir} {
						var st unix.Stat_t
						if err := unix.Stat(dir+"/restored/"+name, &st); err != nil || st.Mtim.Sec != old {
							t.Errorf("%s: %s in %s was modified at %d, %v", restart.name, name, dir, st.Mtim.Sec, err)
						}
					}
				}
			}
			holds(t, m.path("restored/own.lock"), fmt.Sprintln(s.pid))
			holds(t, m.path("restored/owned.lock/owner"), fmt.Sprintf("%d %d\n", s.pid, old))
			holds(t, m.path("restored/info.lock/info"), "some words\n")
			for _, dir := range []string{plain, m.dir} {
				stranger.must("ok", "rmdir", dir+"/restored/dir.lock")
				for _, name := range []string{"empty.lock", "words.lock", "dead.lock", "own.lock", "owned.lock/owner"} {
					stranger.must("ok", "remove", dir+"/restored/"+name)
				}
			}
		})
	}
}
