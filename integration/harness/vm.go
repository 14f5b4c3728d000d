//go:build linux

package harness

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A VM is a virtual machine with Debian 12's kernel. Its first process is a script of integration/vm.
type VM struct {
	T       *testing.T
	args    []string
	monitor string
	cmd     *exec.Cmd
	lines   chan string // of the console; closed once the machine has ended
	console strings.Builder
}

// NewVM prepares a machine that runs a script of integration/vm. The machine has a directory of programs, by name,
// and, unless the size is empty, a disk.
func NewVM(t *testing.T, script string, disk string, programs map[string]string) *VM {
	t.Helper()
	for _, program := range []string{"qemu-system-x86_64", "busybox", "cpio", "mkfs.ext4"} {
		NeedProgram(t, program)
	}
	kernels, _ := filepath.Glob(vmPath("kernel", "boot", "vmlinuz-*"))
	if len(kernels) != 1 {
		FailOrSkip(t, "no kernel for virtual machines; run make deps")
	}
	root, dir := t.TempDir(), t.TempDir()
	busybox, _ := exec.LookPath("busybox")
	files := map[string]string{busybox: "bin/busybox", vmPath("common"): "common", vmPath(script): "init"}
	for name, from := range programs {
		files[from] = "bin/" + name
	}
	_ = filepath.WalkDir(vmPath("kernel", "lib"), func(path string, _ os.DirEntry, err error) error {
		if filepath.Ext(path) == ".ko" {
			files[path] = "modules/" + filepath.Base(path)
		}
		return err
	})
	for from, to := range files {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Join(root, filepath.Dir(to)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(dir, "initramfs")
	pack := exec.Command("sh", "-c", `cd "$0" && find . | cpio --quiet -o -H newc > "$1"`, root, archive)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m := &VM{T: t, monitor: filepath.Join(dir, "monitor")}
	m.args = []string{"-m", "512", "-display", "none", "-serial", "stdio", "-nic", "none", "-kernel", kernels[0], "-initrd", archive,
		"-monitor", "unix:" + m.monitor + ",server,nowait"}
	if disk != "" {
		path := filepath.Join(dir, "disk")
		make := exec.Command("sh", "-c", `truncate -s "$1" "$0" && mkfs.ext4 -q "$0"`, path, disk)
		if out, err := make.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		m.args = append(m.args, "-drive", "format=raw,if=virtio,cache=writeback,file="+path)
	}
	t.Cleanup(func() {
		m.CutPower()
		if t.Failed() {
			for line := range strings.Lines(m.console.String()) {
				t.Logf("console: %.300s", line)
			}
		}
	})
	return m
}

// Boot starts the machine, with further words on the kernel's command line.
func (m *VM) Boot(words string) {
	m.T.Helper()
	m.cmd = exec.Command("qemu-system-x86_64", append(m.args, "-append", "console=ttyS0 quiet panic=-1 "+words)...)
	out, in := io.Pipe()
	m.cmd.Stdout, m.cmd.Stderr = in, in
	if err := m.cmd.Start(); err != nil {
		m.T.Fatal(err)
	}
	m.lines = make(chan string, 1<<16)
	go func(cmd *exec.Cmd) {
		_ = cmd.Wait() // tests judge by the console
		in.Close()
	}(m.cmd)
	go func(lines chan string) {
		defer close(lines)
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if line != "" {
				lines <- strings.TrimRight(line, "\r\n")
			}
			if err != nil {
				return
			}
		}
	}(m.lines)
}

// ReadUntil reads the console up to a line that begins with word and returns all lines.
func (m *VM) ReadUntil(word string) (lines []string) {
	m.T.Helper()
	for timeout := time.After(4 * time.Minute); ; {
		select {
		case line, open := <-m.lines:
			if !open {
				m.T.Fatalf("the machine ended before it printed %s", word)
			}
			m.console.WriteString(line + "\n")
			lines = append(lines, line)
			if strings.HasPrefix(line, word) {
				return lines
			}
		case <-timeout:
			m.T.Fatalf("the machine did not print %s", word)
		}
	}
}

// Reset resets the machine, as its reset button would. It boots again.
func (m *VM) Reset() {
	m.T.Helper()
	monitor, err := net.Dial("unix", m.monitor)
	if err != nil {
		m.T.Fatal(err)
	}
	defer monitor.Close()
	if _, err := io.WriteString(monitor, "system_reset\n"); err != nil {
		m.T.Fatal(err)
	}
	// The monitor echoes a command once it has read it.
	for r := bufio.NewReader(monitor); ; {
		if line, err := r.ReadString('\n'); err != nil || strings.Contains(line, "system_reset") {
			return
		}
	}
}

// CutPower ends the machine. What its kernel had not written to the disk is lost. CutPower returns the rest of the
// console.
func (m *VM) CutPower() (lines []string) {
	if m.cmd == nil {
		return nil
	}
	_ = m.cmd.Process.Kill()
	for line := range m.lines {
		m.console.WriteString(line + "\n")
		lines = append(lines, line)
	}
	m.cmd = nil
	return lines
}

// CheckResults fails the test if a line of the console reports a failure, or fewer than least a success.
func (m *VM) CheckResults(lines []string, least int) {
	m.T.Helper()
	right := 0
	for _, line := range lines {
		if strings.HasPrefix(line, "RESULT FAILED") {
			m.T.Error(line)
		} else if strings.HasPrefix(line, "RESULT ok") {
			right++
		}
	}
	if right < least {
		m.T.Errorf("%d successes, not at least %d", right, least)
	}
}

// vmPath returns the path of a file of integration/vm.
func vmPath(elements ...string) string {
	return RepoPath(append([]string{"integration", "vm"}, elements...)...)
}
