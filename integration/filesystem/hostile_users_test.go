//go:build linux

package filesystem

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/fs/access"
	"latchfs/integration/harness"
)

// TestHostileUser tries what another user could do to locks that it does not hold.
func TestHostileUser(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	m := harness.MountOver(t, harness.SharedDir(t))
	victim, attacker := harness.StartProcess(t), harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
	held, secret := m.Path("held.lock"), m.Path("secret")
	victim.Must("ok", "take", held)
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	attacker.Must("ok", "keep", m.Path("mine"), "/dev/null")
	for _, attempt := range [][]string{
		{"EBUSY", "remove", held}, {"EBUSY", "rename", held, m.Path("away")}, {"EBUSY", "rename", m.Path("mine"), held},
		{"EACCES", "truncate", held}, {"EACCES", "write", held, "mine"}, {"EPERM", "chmod", held},
		{"EEXIST", "take", held}, {"EEXIST", "link", m.Path("mine"), held},
		{"EACCES", "read", secret}, {"EACCES", "truncate", secret}, {"EPERM", "chmod", secret},
	} {
		if answer := attacker.Do(attempt[1:]...); answer != attempt[0] {
			t.Errorf("%v: %s, not %s", attempt[1:], answer, attempt[0])
		}
	}
	// A payload that names another user's process has no holder.
	spoofed := m.Path("spoofed.lock")
	attacker.Must("ok", "take", spoofed, strconv.Itoa(victim.PID()))
	harness.Eventually(t, "it is no lock", func() bool { _, held := m.Locks()["spoofed.lock"]; return !held })
	victim.Must("ok", "remove", spoofed)
	victim.Must("ok", "remove", held)
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("the secret: %q, %v", text, err)
	}
}

// TestOddNames checks locks at names of unusual bytes, of the greatest length, and deeper than a path can express.
func TestOddNames(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, t.TempDir())
	var names []string
	for _, name := range []string{
		strings.Repeat("n", 250) + ".lock", " .lock", "new\nline.lock", "\x1b[31mred.lock", "\xff\xfe.lock", `"quoted\".lock`, "-.lock", "\u202egnp.lock", "..lock",
	} {
		names = append(names, name)
		first, second := harness.StartProcess(t), harness.StartProcess(t)
		path := strings.ReplaceAll(strconv.QuoteToASCII(m.Path(name)), " ", `\x20`)
		if !strings.Contains(path, `\xff`) {
			path = strings.ReplaceAll(strconv.Quote(m.Path(name)), " ", `\x20`)
		}
		first.Must("ok", "take", path)
		second.Must("EEXIST", "take", path)
		second.Must("EBUSY", "remove", path)
		first.Kill()
		harness.Eventually(t, fmt.Sprintf("%q is free", name), func() bool { return second.Do("take", path) == "ok" })
	}
	out, err := exec.Command(harness.Latchfs, "ls", m.Dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(out, func(b byte) bool { return b < ' ' && b != '\n' || b == 0x7f }); i >= 0 {
		t.Errorf("latchfs ls prints what a terminal obeys: %q", out[i:])
	}
	var listed []string
	for name := range m.Locks() {
		listed = append(listed, name)
	}
	if len(listed) < len(names) {
		t.Errorf("%d of %d are listed: %q", len(listed), len(names), listed)
	}

	first, second := harness.StartProcess(t), harness.StartProcess(t)
	for _, p := range []*harness.Process{first, second} {
		p.Must("ok", "enter", m.Dir)
		for range 40 {
			p.Must("ok", "enter", strings.Repeat("d", 200))
		}
	}
	first.Must("ok", "take", "deep.lock")
	second.Must("EEXIST", "take", "deep.lock")
	second.Must("EBUSY", "remove", "deep.lock")
	first.Kill()
	harness.Eventually(t, "the deep lock is free", func() bool { return second.Do("take", "deep.lock") == "ok" })
	second.Must("ok", "remove", "deep.lock")
	second.Kill()
}

// TestNoWayOut checks that nothing outside of the directory is read, created or removed while parents are
// exchanged for symbolic links that lead out.
func TestNoWayOut(t *testing.T) {
	t.Parallel()
	harness.NeedFUSE(t)
	outside := harness.SharedDir(t)
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "x.lock"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o700); err != nil { // users of the mount cannot go there directly
		t.Fatal(err)
	}
	m := harness.MountOver(t, harness.SharedDir(t))
	script := fmt.Sprintf(`
		cd %q
		mkdir -p a/d
		ln -s %q a/s
		echo inside > a/d/file
		echo ready
		while [ ! -e stop ]; do
			for i in 1 2 3 4 5 6 7 8 9 10; do
				rounds=$((rounds + 1))
				read -r text < a/d/file && [ "$text" != inside ] && echo "READ $text"
				: > a/d/new$i; (set -C; echo $$ > a/d/x.lock); rm -f a/d/x.lock a/d/new$i; mkdir a/d/dir; rmdir a/d/dir; mv a/d/file a/d/file2; mv a/d/file2 a/d/file
				ls a/d > /dev/null
			done
		done 2>/dev/null
		echo $rounds rounds`, m.Dir, outside)
	words := append(harness.AsUser(t, harness.AttackerUID), "bash", "-c", script)
	var out harness.Buffer
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "the attacker is ready", func() bool { return strings.Contains(out.String(), "ready") })
	exchanges := 0
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); exchanges++ {
		if err := unix.Renameat2(unix.AT_FDCWD, m.Path("a/d"), unix.AT_FDCWD, m.Path("a/s"), unix.RENAME_EXCHANGE); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.Path("stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || strings.Contains(out.String(), "READ") {
		t.Errorf("%v: %s", err, out.String())
	}
	t.Logf("%d exchanges, %s", exchanges, strings.TrimSpace(strings.TrimPrefix(out.String(), "ready\n")))
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 2 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	if text, err := os.ReadFile(filepath.Join(outside, "file")); err != nil || string(text) != "outside" {
		t.Errorf("outside: %q, %v", text, err)
	}
}

// denyingACL is an ACL that grants mode 0755 to all users but one.
func denyingACL(uid uint32) []byte {
	const undefined = ^uint32(0)
	return harness.EncodeACL([][3]uint32{{1, 7, undefined}, {2, 0, uid}, {4, 5, undefined}, {16, 5, undefined}, {32, 5, undefined}})
}

// TestPrivateDirectory checks that another user learns nothing of the locks in a directory that is closed to it,
// by mode or by ACL, also if it may look names up in the directory but not list it. The owner of the directory and
// root learn everything.
func TestPrivateDirectory(t *testing.T) {
	t.Parallel()
	m := harness.MountOver(t, harness.SharedDir(t))
	owner, dead := harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...), harness.StartProcess(t, harness.AsUser(t, harness.BystanderUID)...)
	private := m.Path("private")
	owner.Must("ok", "mkdir", private)
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	owner.Must("ok", "mkdir", private+"/sub")
	owner.Must("ok", "take", private+"/secret.lock")
	dead.Must("ok", "take", private+"/secret-dead.lock")
	if err := unix.Link(private+"/secret.lock", m.Path("linked.lock")); err != nil {
		t.Fatal(err)
	}
	read := func(uid int, name string) string {
		words := append(harness.AsUser(t, uid), "cat", m.Path(".latchfs/"+name))
		out, _ := exec.Command(words[0], words[1:]...).CombinedOutput()
		return string(out)
	}
	events := make(map[int]int)
	for _, uid := range []int{harness.AttackerUID, harness.BystanderUID, 0} {
		events[uid] = harness.OpenAs(t, uid, m.Path(".latchfs/events"), unix.O_RDONLY|unix.O_NONBLOCK)
	}
	dead.Kill()
	harness.Eventually(t, "the dead one's lock is kept", func() bool { return strings.Contains(read(0, "reclaimed"), "secret-dead") })
	looks := func(mode os.FileMode, denied ...uint32) {
		t.Helper()
		if err := os.Chmod(private, mode); err != nil {
			t.Fatal(err)
		}
		for _, uid := range denied {
			if err := unix.Setxattr(private, "system.posix_acl_access", denyingACL(uid), 0); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(access.KnownLifetime * 3 / 2) // latchfs remembers for this long what a user may see
		for _, name := range []string{"locks", "locks.json", "reclaimed", "events"} {
			for uid, fd := range events {
				var text string
				if name != "events" {
					text = read(uid, name)
				} else {
					owner.Must("ok", "take", private+"/secret-new.lock")
					owner.Must("ok", "remove", private+"/secret-new.lock")
					owner.Must("ok", "take", m.Path("public.lock"))
					owner.Must("ok", "remove", m.Path("public.lock"))
					harness.Eventually(t, "the last event", func() bool {
						var buf [64 << 10]byte
						n, _ := unix.Read(fd, buf[:])
						text += string(buf[:max(n, 0)])
						return strings.Contains(text, "public.lock")
					})
				}
				if seen := strings.Contains(text, "secret"); seen != (uid != harness.AttackerUID) {
					t.Errorf("%v %v: user %d in %s: %s", mode, denied, uid, name, text)
				}
			}
		}
	}
	looks(0o700)
	looks(0o711)
	looks(0o755, harness.AttackerUID)
	stranger := harness.StartProcess(t, harness.AsUser(t, harness.AttackerUID)...)
	for _, name := range []string{"lock/private/secret.lock", "lock/private/no.lock", "wait/private/sub", "wait/private/no", "wait/private/secret.lock"} {
		stranger.Must("EACCES", "look", m.Path(".latchfs/"+name))
	}
	for _, name := range []string{"private/secret.lock", "private/no.lock"} {
		stranger.Must("EACCES", "write", m.Path(".latchfs/ctl"), "release "+name)
	}
	for _, dir := range []string{"lock", "lock/private"} {
		words := append(harness.AsUser(t, harness.AttackerUID), "ls", m.Path(".latchfs/"+dir))
		if out, err := exec.Command(words[0], words[1:]...).Output(); err != nil || strings.Contains(string(out), "private") || strings.Contains(string(out), "secret") {
			t.Errorf("%s lists %q: %v", dir, out, err)
		}
	}
	value := make([]byte, 100)
	harness.WithUID(harness.AttackerUID, func() {
		if _, err := unix.Lgetxattr(m.Path("linked.lock"), "user.latchfs.holder.pid", value); err != unix.ENODATA {
			t.Errorf("the attribute of a link: %v", err)
		}
	})
	harness.WithUID(harness.BystanderUID, func() {
		if _, err := unix.Lgetxattr(private+"/secret.lock", "user.latchfs.holder.pid", value); err != nil {
			t.Errorf("the attribute of its own: %v", err)
		}
	})
}
