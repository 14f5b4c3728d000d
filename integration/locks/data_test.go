//go:build linux

package locks

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"latchfs/integration/harness"
)

// A datum is data that a process leaves at the name x.lock.
type datum struct {
	name string
	// leave creates x.lock in dir and returns its text. In the control run m is nil.
	leave func(t *testing.T, m *harness.Mount, dir string) (text string)
	file  string // the file with the text; x.lock if empty
}

// ways are scripts that create x.lock with a text. Each ends at once.
var ways = map[string]string{
	"renamed":          `printf %%s '%s' >t; setsid -f -w mv t x.lock`,
	"made exclusively": `set -C; printf %%s '%s' >x.lock`,
	"copied":           `printf %%s '%s' >t; setsid -f -w cp t x.lock; rm t`,
	"linked":           `printf %%s '%s' >t; setsid -f -w ln t x.lock; rm t`,
	"written":          `printf %%s '%s' >x.lock`,
}

// leftBy leaves a text through a script, which prints that text.
func leftBy(script string) func(*testing.T, *harness.Mount, string) string {
	return func(t *testing.T, _ *harness.Mount, dir string) string { return harness.RunShell(t, dir, script) }
}

// background starts a process in a family of its own and ends it with the test.
func background(t *testing.T, words ...string) (pid int) {
	t.Helper()
	cmd := exec.Command(words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd.Process.Pid
}

// data returns the data and the copies that must stay. The numbers 3, 7, 15, 18 and 42 are kernel threads on most
// machines.
func data(t *testing.T) (all []datum) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	running := strconv.Itoa(background(t, "sleep", "1000"))
	user := background(t, append(harness.AsUser(t, harness.BystanderUID), "sleep", "1000")...)
	for _, text := range []string{
		`{"version":1,"createdAt":"2026-11-28T03:00:00Z","hash":"a"}`, `99999`, `{"pid":99999,"kp":1.5}`, `{"pid":0,"model":"x"}`,
		`7`, `node-18`, `v2-3`, `host:42`, `15`, host + ":15", running, `{"pid":` + running + `}`,
		`{"pid":` + running + `,"starttime":17}`, `{"pid":` + running + `,"hostname":"another-machine.example.org"}`,
		`{"pid":` + running + `,"bootId":"11111111-2222-4333-8444-555555555555"}`,
	} {
		for way, script := range ways {
			all = append(all, datum{name: way + " " + text, leave: func(t *testing.T, _ *harness.Mount, dir string) string {
				harness.RunShell(t, dir, fmt.Sprintf(script, text))
				return text
			}})
		}
	}
	// Copies that name the copier itself, with something that contradicts it.
	for _, contradiction := range []string{`"starttime":17`, `"hostname":"another-machine.example.org"`, `"bootId":"11111111-2222-4333-8444-555555555555"`} {
		all = append(all, datum{name: "a copy whose pid is the copier's, with " + contradiction,
			leave: leftBy(`printf '{"pid":%d,` + contradiction + `}' $$ >t; cp t x.lock; cat t`)})
	}
	// A daemon renames a file that it received from another machine, and lives on.
	for _, text := range []string{`{"pid":4123,"hostname":"another-machine.example.org"}`, `another-machine.example.org:4123`, `4111111`, running} {
		daemon := harness.StartProcess(t)
		all = append(all, datum{name: "a daemon synchronizes " + text, leave: func(t *testing.T, _ *harness.Mount, dir string) string {
			if err := os.WriteFile(dir+"/.x.lock.part", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			daemon.Must("ok", "rename", dir+"/.x.lock.part", dir+"/x.lock")
			return text
		}})
	}
	// The server dies before or after a plain write of a number.
	const plain = `import os, sys
fd = os.open("x.lock", os.O_CREAT | os.O_WRONLY)
for line in sys.stdin:
    if line == "write\n": os.write(fd, b"15\n")
    if line == "close\n": os.close(fd)
    print(flush=True)`
	for i, when := range []string{"opened", "written", "closed"} {
		all = append(all, datum{name: "the server dies after a plain file was " + when, leave: func(t *testing.T, m *harness.Mount, dir string) string {
			writer := exec.Command("/usr/bin/python3", "-c", plain)
			writer.Dir = dir
			in, err := writer.StdinPipe()
			out, err2 := writer.StdoutPipe()
			if err := errors.Join(err, err2, writer.Start()); err != nil {
				t.Fatal(err)
			}
			for step, word := range []string{"open", "write", "close"} {
				fmt.Fprintln(in, word)
				if _, err := out.Read(make([]byte, 1)); err != nil {
					t.Error(err)
				}
				if step == i && m != nil {
					m.KillServer()
				}
			}
			in.Close()
			if err := writer.Wait(); err != nil {
				t.Error(err)
			}
			return "15\n"
		}})
	}
	const as = "setpriv --reuid=1002 --regid=1002 --clear-groups "
	return append(all,
		datum{name: "root names another user's daemon", leave: leftBy(fmt.Sprintf(`(set -C; echo %d >x.lock); echo %d`, user, user))},
		datum{name: "a user writes its pid into another's file and ends", leave: leftBy(
			`echo data >x.lock; chmod 666 x.lock; ` + as + `bash -c 'echo $$ >x.lock; echo $$'`)},
		datum{name: "a user writes its pid into another's file and is killed", leave: leftBy(
			`exec 2>/dev/null; echo data >x.lock; chmod 666 x.lock; ` + as + `bash -c 'echo $$ >x.lock; echo $$; kill -9 $$' || :`)},
		datum{name: "a user renames another's directory and is killed", file: "x.lock/pid", leave: func(t *testing.T, _ *harness.Mount, dir string) string {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			attacker := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
			text := fmt.Sprintln(attacker.PID())
			harness.RunShell(t, dir, fmt.Sprintf(`mkdir theirs; echo %d >theirs/pid; chown -R 1003:1003 theirs`, attacker.PID()))
			attacker.Must("ok", "rename", dir+"/theirs", dir+"/x.lock")
			attacker.Kill()
			return text
		}},
	)
}

// TestDataIsNobodys checks that data and copies at lock names stay, and have no holder, regardless of the numbers
// in them and of their writer. The control run does the same in a plain directory.
func TestDataIsNobodys(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	all := data(t)
	plain, m := harness.SharedDir(t), harness.MountOver(t, harness.SharedDir(t))
	stranger := harness.StartProcess(t)
	texts := make([]string, len(all))
	name := func(i int) string { return fmt.Sprintf("%d/x.lock", i) }
	check := func(t *testing.T, dir string, i int) {
		t.Helper()
		harness.CheckContent(t, filepath.Join(dir, strconv.Itoa(i), cmp.Or(all[i].file, "x.lock")), texts[i])
	}
	each := func(name string, do func(t *testing.T, i int)) {
		t.Run(name, func(t *testing.T) {
			for i, d := range all {
				t.Run(d.name, func(t *testing.T) { do(t, i) })
			}
		})
	}
	for _, place := range []struct {
		name, dir string
		m         *harness.Mount
	}{{"control", plain, nil}, {"made", m.Dir, m}} {
		each(place.name, func(t *testing.T, i int) {
			dir := filepath.Join(place.dir, strconv.Itoa(i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			texts[i] = all[i].leave(t, place.m, dir)
			check(t, place.dir, i)
		})
	}
	for _, restart := range harness.Restarts {
		restart.Do(m)
		harness.Eventually(t, "nothing is open any more", func() bool { return harness.StatusNumber(t, m.Path(".latchfs/status"), `  "handles":`) == 0 })
		verdicts := m.Verdicts()
		each(restart.Name, func(t *testing.T, i int) {
			if l := verdicts[name(i)]; l.Verdict != "settled" {
				t.Errorf("listed as %+v", l)
			}
			check(t, m.Dir, i)
		})
	}
	each("a stranger may take it away", func(t *testing.T, i int) {
		for _, dir := range []string{plain, m.Dir} {
			if answer := stranger.Do("rename", filepath.Join(dir, name(i)), filepath.Join(dir, "away")); answer != "ok" {
				t.Errorf("%s in %s", answer, dir)
			}
			if err := os.RemoveAll(filepath.Join(dir, "away")); err != nil {
				t.Error(err)
			}
		}
	})
	if kept := harness.ReclaimedFiles(t, m); len(kept) > 0 {
		t.Errorf("%d were kept aside: %s", len(kept), strings.Join(kept, " "))
	}
}
