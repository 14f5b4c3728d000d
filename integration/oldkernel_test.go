//go:build linux

package integration

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestOldKernel: on Debian 12's kernel (6.1), which cannot send requests again, a server that dies is
// followed by a new mount, and that is said. integration/oldkernel/init is what happens in the
// virtual machine.
func TestOldKernel(t *testing.T) {
	if raceEnabled {
		t.Skip("emulated, the race detector is too slow: make test does it")
	}
	needProgram(t, "qemu-system-x86_64")
	needProgram(t, "busybox")
	needProgram(t, "cpio")
	kernels, _ := filepath.Glob("oldkernel/kernel/boot/vmlinuz-*")
	modules, _ := filepath.Glob("oldkernel/kernel/lib/modules/*/kernel/fs/fuse/fuse.ko")
	if len(kernels) != 1 || len(modules) != 1 {
		lacking(t, "no old kernel; run make deps")
	}
	root := t.TempDir()
	static := filepath.Join(root, "bin/latchfs")
	busybox, _ := exec.LookPath("busybox")
	if err := os.Mkdir(filepath.Join(root, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", static, "latchfs/cmd/latchfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for from, to := range map[string]string{busybox: "bin/busybox", "oldkernel/init": "init", modules[0]: "fuse.ko"} {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(t.TempDir(), "initramfs")
	pack := exec.Command("sh", "-c", `cd "$0" && find . | cpio --quiet -o -H newc > "$1"`, root, archive)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	vm := exec.CommandContext(ctx, "qemu-system-x86_64", "-m", "512", "-nographic", "-no-reboot", "-nic", "none",
		"-kernel", kernels[0], "-initrd", archive, "-append", "console=ttyS0 quiet panic=-1")
	var console bytes.Buffer
	vm.Stdout = io.MultiWriter(&console)
	vm.Stderr = vm.Stdout
	err := vm.Run()
	text := strings.ReplaceAll(console.String(), "\r", "")
	if err != nil || strings.Contains(text, "RESULT FAILED") || !strings.Contains(text, "RESULT done") || strings.Count(text, "RESULT ok") < 12 {
		t.Errorf("%v\n%s", err, text)
	}
}
