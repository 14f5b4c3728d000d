//go:build linux

package restart

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// A worker is a process that uses a mount while its server is killed. It checks the result of every system call
// until its standard input ends. Then it prints the number of its rounds and its longest call.
type worker struct {
	dir     string // the directory of this worker
	shared  string // the directory of all workers
	outside string // a directory that is not in the mount
	random  *rand.Rand
	rounds  int
	worst   time.Duration
	what    string // the longest call
}

// work is the main function of a worker.
func work() {
	kind := os.Getenv("WORKER_KIND")
	w := &worker{
		dir: filepath.Join(os.Getenv("WORKER_DIR"), kind), shared: os.Getenv("WORKER_DIR"), outside: os.Getenv("WORKER_OUTSIDE"),
		random: rand.New(rand.NewPCG(uint64(os.Getpid()), 1)),
	}
	do := workers[strings.TrimRight(kind, "0123456789")]
	w.must("mkdir", unix.Mkdir(w.dir, 0o755))
	ended := make(chan struct{})
	go func() {
		var b [1]byte
		_, _ = os.Stdin.Read(b[:])
		close(ended)
	}()
	finish := do(w)
	for running := true; running; {
		finish.round()
		w.rounds++
		select {
		case <-ended:
			running = false
		default:
		}
	}
	if finish.check != nil {
		finish.check()
	}
	fmt.Println(w.rounds, w.worst.Microseconds(), w.what)
}

// A job is the work of a worker: rounds, and a check at the end.
type job struct{ round, check func() }

// call times a system call.
func (w *worker) call(what string, do func() error) error {
	start := time.Now()
	err := do()
	if took := time.Since(start); took > w.worst {
		w.worst, w.what = took, what
	}
	return err
}

func (w *worker) must(what string, err error) {
	if err != nil {
		harness.FailHelper(fmt.Errorf("%s: round %d: %s: %w", w.dir, w.rounds, what, err))
	}
}

func (w *worker) do(what string, do func() error) { w.must(what, w.call(what, do)) }

// fails makes a call that must fail with errno.
func (w *worker) fails(what string, errno unix.Errno, do func() error) {
	if err := w.call(what, do); !errors.Is(err, errno) {
		w.must(what, fmt.Errorf("%v, not %v", err, errno))
	}
}

func (w *worker) same(what string, got, want []byte) {
	if !bytes.Equal(got, want) {
		if len(got) > 200 {
			got = got[:200]
		}
		w.must(what, fmt.Errorf("%d bytes %q, not %d bytes", len(got), got, len(want)))
	}
}

func (w *worker) path(name string) string { return filepath.Join(w.dir, name) }

func (w *worker) open(path string, flags int) (fd int) {
	w.do("open", func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		return err
	})
	return fd
}

func (w *worker) write(fd int, text []byte) {
	w.do("write", func() error {
		n, err := unix.Write(fd, text)
		if err == nil && n != len(text) {
			err = fmt.Errorf("%d bytes of %d", n, len(text))
		}
		return err
	})
}

func (w *worker) close(fd int) { w.do("close", func() error { return unix.Close(fd) }) }

func (w *worker) read(path string) (text []byte) {
	w.do("read", func() (err error) {
		text, err = os.ReadFile(path)
		return err
	})
	return text
}

func (w *worker) unlink(path string) { w.do("unlink", func() error { return unix.Unlink(path) }) }

// run runs a command that must succeed.
func (w *worker) run(name string, args ...string) string {
	var out []byte
	w.do(name+" "+strings.Join(args, " "), func() (err error) {
		cmd := exec.Command(name, args...)
		cmd.Dir = w.dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b", "GIT_CONFIG_NOSYSTEM=1", "HOME="+w.outside)
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	})
	return strings.TrimSpace(string(out))
}

// A load is a set of workers.
type load struct {
	t       *testing.T
	names   []string
	cmds    []*exec.Cmd
	inputs  []io.Closer
	outputs []*bytes.Buffer
}

var workerKinds = []string{
	"lock1", "lock2", "contend1", "contend2", "contend3", "payload", "append1", "append2", "replace", "tree", "list",
	"mmap", "unlinked", "attr", "names", "read", "git", "sqlite",
}

// startLoad starts the workers in a directory of the mount.
func startLoad(t *testing.T, dir string) *load {
	t.Helper()
	harness.NeedProgram(t, "git")
	harness.NeedProgram(t, "sqlite3")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	l := &load{t: t, names: workerKinds}
	outside := t.TempDir()
	for _, kind := range l.names {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), harness.HelperVariable+"=worker", "WORKER_KIND="+kind, "WORKER_DIR="+dir, "WORKER_OUTSIDE="+outside)
		out := &bytes.Buffer{}
		cmd.Stdout, cmd.Stderr = out, out
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		l.cmds, l.inputs, l.outputs = append(l.cmds, cmd), append(l.inputs, in), append(l.outputs, out)
	}
	return l
}

// end stops the workers, fails the test if one saw anything wrong, and logs their longest calls.
func (l *load) end() {
	l.t.Helper()
	for _, in := range l.inputs {
		in.Close()
	}
	var stalls []time.Duration
	for i, cmd := range l.cmds {
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("%s: %v: %s", l.names[i], err, l.outputs[i])
			continue
		}
		var rounds, worst int
		if _, err := fmt.Sscan(l.outputs[i].String(), &rounds, &worst); err != nil || rounds == 0 {
			l.t.Errorf("%s: %q", l.names[i], l.outputs[i])
			continue
		}
		l.t.Logf("%-9s %7d rounds, longest call %v", l.names[i], rounds, time.Duration(worst)*time.Microsecond)
		if l.names[i] != "git" && l.names[i] != "sqlite" { // a call of these is a whole command
			stalls = append(stalls, time.Duration(worst)*time.Microsecond)
		}
	}
	if slices.Sort(stalls); len(stalls) > 0 {
		l.t.Logf("longest stall of a call: median over the workers %v, worst %v", stalls[len(stalls)/2], stalls[len(stalls)-1])
	}
}
