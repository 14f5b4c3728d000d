//go:build linux

package locks

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestLockDirectoryWithTexts checks that a script keeps its lock directory when it writes texts about itself into
// it, and that the lock is free once the script has been killed.
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
			m := harness.MountOver(t, t.TempDir())
			for _, restart := range harness.Restarts {
				contender := harness.StartProcess(t)
				s := m.StartScript(`mkdir x.lock; ` + c.script + `; cd /; echo $$; exec sleep 1000`)
				restart.Do(m)
				if l := m.Verdicts()["x.lock"]; l.Verdict != "live" || l.Holder.PID != s.PID {
					t.Errorf("%s: the script is process %d; listed as %+v", restart.Name, s.PID, l)
				}
				contender.Must("EEXIST", "mkdir", m.Path("x.lock"))
				if answer := contender.Do("rename", m.Path("x.lock"), m.Path("away")); answer != "EBUSY" {
					t.Fatalf("%s: rename: %s, not EBUSY", restart.Name, answer)
				}
				s.Kill()
				contender.Must("ok", "mkdir", m.Path("x.lock"))
				contender.Must("ok", "rmdir", m.Path("x.lock"))
				s.End()
			}
		})
	}
}

// TestDirectoryOfMoreIsData checks that a directory with a fifth entry, a subdirectory, or more than a small text
// is no lock. It stays when its script is killed, and any process may move it.
func TestDirectoryOfMoreIsData(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, script string }{
		{"a fifth entry", `for name in who where when why what; do echo "some words" >x.lock/$name; done`},
		{"a directory", `mkdir x.lock/sub`},
		{"a large file", `printf "%4097s" words >x.lock/info`},
		{"a file that is no text", `printf "\\0\\1\\377" >x.lock/info`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := harness.MountOver(t, t.TempDir())
			stranger := harness.StartProcess(t)
			s := m.StartScript(`mkdir x.lock; ` + c.script + `; cd /; echo $$; exec sleep 1000`)
			before := harness.DumpTree(t, m.Dir)
			for _, restart := range harness.Restarts {
				restart.Do(m)
				harness.Eventually(t, "it has settled, "+restart.Name, func() bool { return m.Verdicts()["x.lock"].Verdict == "settled" })
			}
			s.Kill()
			if l := m.Verdicts()["x.lock"]; l.Verdict != "settled" {
				t.Errorf("after the script was killed: %+v", l)
			}
			harness.CompareLines(t, 0, harness.DumpTree(t, m.Dir), before)
			stranger.Must("ok", "rename", m.Path("x.lock"), m.Path("away"))
		})
	}
}

// TestRestoredTimesMakeNoLock checks that files copied with their old times are copies: they have no holder,
// although the shell that copied them lives, and their times are shown unchanged. The control run does the same in
// a plain directory.
func TestRestoredTimesMakeNoLock(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"tar", "rsync"} {
		harness.NeedProgram(t, program)
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
			plain, m := t.TempDir(), harness.MountOver(t, t.TempDir())
			stranger := harness.StartProcess(t)
			restore := func(to string) string { return `to=` + to + `/restored; cd ` + t.TempDir() + `; ` + backup + c.restore }
			harness.RunShell(t, plain, restore(plain))
			s := m.StartScript(restore(m.Dir) + `; cd /; echo $$; exec sleep 1000`)
			for _, restart := range harness.Restarts {
				restart.Do(m)
				verdicts := m.Verdicts()
				for _, name := range names {
					if l := verdicts["restored/"+name]; l.Verdict != "settled" {
						t.Errorf("%s: %s is listed as %+v", restart.Name, name, l)
					}
					for _, dir := range []string{plain, m.Dir} {
						var st unix.Stat_t
						if err := unix.Stat(dir+"/restored/"+name, &st); err != nil || st.Mtim.Sec != old {
							t.Errorf("%s: %s in %s was modified at %d, %v", restart.Name, name, dir, st.Mtim.Sec, err)
						}
					}
				}
			}
			harness.CheckContent(t, m.Path("restored/own.lock"), fmt.Sprintln(s.PID))
			harness.CheckContent(t, m.Path("restored/owned.lock/owner"), fmt.Sprintf("%d %d\n", s.PID, old))
			harness.CheckContent(t, m.Path("restored/info.lock/info"), "some words\n")
			for _, dir := range []string{plain, m.Dir} {
				stranger.Must("ok", "rmdir", dir+"/restored/dir.lock")
				for _, name := range []string{"empty.lock", "words.lock", "dead.lock", "own.lock", "owned.lock/owner"} {
					stranger.Must("ok", "remove", dir+"/restored/"+name)
				}
			}
		})
	}
}
