//go:build linux

package cli

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

const packageDir = "../../cmd/latchfs/package/"

// TestUnits checks that systemd accepts the units of the package, and rates their exposure no worse than before.
func TestUnits(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "systemd-analyze")
	for _, kind := range []string{"system", "user"} {
		text, err := os.ReadFile(packageDir + kind + "/latchfs@.service")
		if err != nil {
			t.Fatal(err)
		}
		unit := filepath.Join(t.TempDir(), "latchfs@srv-x.service")
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/bin/latchfs", harness.Latchfs)), 0o644); err != nil {
			t.Fatal(err)
		}
		verify := exec.Command("systemd-analyze", "verify", "--man=no", "--"+kind, unit)
		verify.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		if out, err := verify.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		if kind == "user" {
			continue
		}
		// The exposure is in tenths. A unit without restrictions has 10.0.
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=62", unit).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Log(lines[len(lines)-1])
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// TestUnitAllowsCalls checks that the unit's filter of system calls allows every call of a mount.
func TestUnitAllowsCalls(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "systemd-analyze")
	harness.NeedProgram(t, "strace")
	text, err := os.ReadFile(packageDir + "system/latchfs@.service")
	if err != nil {
		t.Fatal(err)
	}
	allowed := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^SystemCallFilter=(.*)$`).FindAllStringSubmatch(string(text), -1) {
		words, denied := strings.CutPrefix(line[1], "~")
		for _, word := range strings.Fields(words) {
			for _, call := range callsOf(t, word) {
				allowed[call] = !denied
			}
		}
	}
	trace := filepath.Join(t.TempDir(), "trace")
	m := &harness.Mount{T: t, Args: []string{"--metrics-listen", "localhost:0"}}
	harness.NeedFUSE(t)
	m.Dir, m.StateDir = t.TempDir(), filepath.Join(t.TempDir(), "state")
	m.Start("strace", "-f", "-qq", "-o", trace)
	t.Cleanup(m.CleanUp)
	holder := harness.StartProcess(t)
	holder.Must("ok", "take", m.Path("x.lock"))
	if out, err := exec.Command("sh", "-euc", `cd "$1"; echo text >file; mkdir -p a/b; cp -a file a/b/; mv a/b/file a/; ln -s file link; ln file hard; cat file link
		touch -d yesterday file; chmod 600 file; chown 1 file; truncate -s 100 file; ls -lR . >/dev/null; stat -f . >/dev/null; rm -r a; mkfifo pipe; mknod null c 1 3
		mkdir d.lock; rmdir d.lock; ln -s $$ l.lock; rm l.lock; cat .latchfs/locks .latchfs/metrics >/dev/null; fallocate -l 1M file; sync file`, "sh", m.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	gone := harness.WatchInotify(t, m.Dir, unix.IN_DELETE)
	holder.Kill()
	harness.WaitForInotify(t, gone, "delete x.lock")
	if out, err := exec.Command(harness.Latchfs, "upgrade", m.Dir).CombinedOutput(); err != nil {
		t.Fatalf("upgrade: %v: %s", err, out)
	}
	m.Unmount()
	used, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	calls := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^\d+ +([a-z_0-9]+)\(`).FindAllStringSubmatch(string(used), -1) {
		calls[line[1]] = true
	}
	if !calls["open_by_handle_at"] || !calls["fsmount"] || len(calls) < 50 {
		t.Errorf("saw only %v", slices.Sorted(maps.Keys(calls)))
	}
	for _, call := range []string{"socket", "setsockopt", "bind", "sendto"} {
		calls[call] = true // for the kernel's process events, before Linux 6.15
	}
	for call := range calls {
		if !allowed[call] {
			t.Errorf("%s is not allowed", call)
		}
	}
}

// callsOf returns a system call, or the calls of a group of systemd.exec(5).
func callsOf(t *testing.T, word string) (calls []string) {
	t.Helper()
	if !strings.HasPrefix(word, "@") {
		return []string{word}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", word).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(out), "\n")[1:] {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			calls = append(calls, callsOf(t, line)...)
		}
	}
	return calls
}

// TestContainerExamples checks the examples for containers as far as that is possible without a container engine.
func TestContainerExamples(t *testing.T) {
	t.Parallel()
	harness.NeedProgram(t, "python3")
	text, err := os.ReadFile(packageDir + "examples/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^[A-Z]+`).FindAllString(string(text), -1) {
		if !slices.Contains([]string{"FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}, line) {
			t.Errorf("instruction %s", line)
		}
	}
	if out, err := exec.Command("python3", "-c", `
import os, sys, yaml
path = sys.argv[1]
c = yaml.safe_load(open(path))
assert set(c) == {"services", "volumes"}, c
for name, s in c["services"].items():
    assert ("image" in s) != ("build" in s), name
    for v in s["volumes"]:
        source = v.split(":")[0] if isinstance(v, str) else v["source"]
        assert source.startswith(".") or source in c["volumes"], source
build = c["services"]["latchfs"]["build"]
at = os.path.join(os.path.dirname(path), build["context"])
assert os.path.exists(os.path.join(at, "go.mod")) and os.path.exists(os.path.join(at, build["dockerfile"])), at
`, packageDir+"examples/compose.yaml").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestPackage installs the package on a new Debian, uses it, and purges it.
func TestPackage(t *testing.T) {
	t.Parallel()
	if os.Getenv("PACKAGE") == "" {
		t.Skip("make test-package does it")
	}
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "debootstrap")
	root := t.TempDir()
	sources, err := exec.Command("sh", "-c", `awk '/^URIs:/ { print $2; exit } /^deb / { print $2; exit }' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null`).Output()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("debootstrap", "--variant=minbase", "--include=man-db,bash-completion,procps", "bookworm", root, strings.TrimSpace(string(sources))).CombinedOutput(); err != nil {
		t.Fatalf("debootstrap: %v: %s", err, out)
	}
	debs, err := filepath.Glob("../../bin/latchfs_*.deb")
	if err != nil || len(debs) != 1 {
		t.Fatalf("run make package: %v %v", debs, err)
	}
	if out, err := exec.Command("cp", debs[0], root+"/latchfs.deb").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// A mount in a namespace ends with the namespace.
	install := exec.Command("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "sh", "-euc", `
		mount --bind "$1" "$1"
		mount -t proc proc "$1/proc"
		mount --bind /dev "$1/dev"
		exec chroot "$1" sh -euxc '
			export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
			find / -xdev -path /proc -prune -o -path /dev -prune -o -print | sort >/before
			dpkg -i /latchfs.deb
			rm -f /etc/dpkg/dpkg.cfg.d/*
			dpkg -i /latchfs.deb
			latchfs version
			man latchfs | grep -qi "who holds a lock"
			man latchfs-mount | grep -q stale-after
			zcat /usr/share/doc/latchfs/changelog.gz | grep -q Changelog
			bash -c "source /usr/share/bash-completion/bash_completion; source /usr/share/bash-completion/completions/latchfs
				COMP_WORDS=(latchfs um); COMP_CWORD=1; COMP_LINE=\"latchfs um\"; COMP_POINT=10; __start_latchfs; echo completes \${COMPREPLY[*]}"
			mkdir -p /srv/sessions
			echo "/srv/sessions /srv/sessions fuse.latchfs stale_after=1h 0 0" >>/etc/fstab
			mount -a
			sh -c "set -C; echo \$\$ >/srv/sessions/x.lock; exec sleep 1000" &
			while ! [ -e /srv/sessions/x.lock ]; do sleep 0.01; done
			latchfs why /srv/sessions/x.lock
			! rm /srv/sessions/x.lock 2>/dev/null || [ -e /srv/sessions/x.lock ]
			kill -9 $!
			while [ -e /srv/sessions/x.lock ]; do sleep 0.01; done
			umount /srv/sessions
			mount /srv/sessions
			umount -l /srv/sessions
			while pgrep latchfs >/dev/null; do sleep 0.01; done
			dpkg --purge latchfs
			rm -r /srv/sessions
			sed -i /latchfs/d /etc/fstab
			find / -xdev -path /proc -prune -o -path /dev -prune -o -print | sort >/after
			echo left: $(comm -13 /before /after | grep -v -e "^/before$" -e "^/after$" -e ^/var/lib/dpkg/ -e ^/var/cache/man -e ^/var/log -e ^/var/cache/ldconfig -e ^/tmp)
			echo none of: $(find / -xdev -name "*latchfs*" ! -path "/proc/*" ! -path "/var/cache/man/*" ! -path /latchfs.deb)
		'`, "sh", root)
	out, err := install.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, want := range []string{"completes umount", "/srv/sessions/x.lock is held by process", "left:", "none of:"} {
		at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, want) })
		if at < 0 || strings.HasSuffix(want, ":") && lines[at] != want {
			t.Errorf("no line %q in %s", want, out)
		}
	}
}
