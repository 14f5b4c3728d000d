//go:build linux

package integration

import (
	"encoding/binary"
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
)

// asUser is the prefix of a command that another user runs.
func asUser(t *testing.T, uid int) []string {
	t.Helper()
	needProgram(t, "setpriv")
	id := strconv.Itoa(uid)
	return []string{"setpriv", "--reuid=" + id, "--regid=" + id, "--clear-groups", "--bounding-set=-all"}
}

// sharedDir is a directory in which everybody may make files, as in /tmp.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path := dir; path != os.TempDir() && path != "/"; path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	attackerUID  = 1002
	bystanderUID = 1003
)

// TestHostileUser: what another user tries against locks that are not its own.
func TestHostileUser(t *testing.T) {
	needFUSE(t)
	m := mountOver(t, sharedDir(t))
	victim, attacker := newLocker(t), newLocker(t, asUser(t, attackerUID)...)
	held, secret := m.path("held.lock"), m.path("secret")
	victim.must("ok", "take", held)
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	attacker.must("ok", "keep", m.path("mine"), "/dev/null")
	for _, attempt := range [][]string{
		{"EBUSY", "remove", held}, {"EBUSY", "rename", held, m.path("away")}, {"EBUSY", "rename", m.path("mine"), held},
		{"EACCES", "truncate", held}, {"EACCES", "write", held, "mine"}, {"EPERM", "chmod", held},
		{"EEXIST", "take", held}, {"EEXIST", "link", m.path("mine"), held},
		{"EACCES", "read", secret}, {"EACCES", "truncate", secret}, {"EPERM", "chmod", secret},
	} {
		if answer := attacker.do(attempt[1:]...); answer != attempt[0] {
			t.Errorf("%v: %s, not %s", attempt[1:], answer, attempt[0])
		}
	}
	// A payload that names another's process makes nobody the holder.
	spoofed := m.path("spoofed.lock")
	attacker.must("ok", "take", spoofed, strconv.Itoa(victim.pid()))
	eventually(t, "it is no lock", func() bool { _, held := m.locks()["spoofed.lock"]; return !held })
	victim.must("ok", "remove", spoofed)
	victim.must("ok", "remove", held)
	if text, err := os.ReadFile(secret); err != nil || string(text) != "secret" {
		t.Errorf("the secret: %q, %v", text, err)
	}
}

// TestLimitsPerUser: one user cannot take locks without end, and others do not notice.
func TestLimitsPerUser(t *testing.T) {
	needFUSE(t)
	const limit = 40
	m := mountOver(t, sharedDir(t), "--max-locks-per-user", strconv.Itoa(limit))
	attacker, bystander, root := newLocker(t, asUser(t, attackerUID)...), newLocker(t, asUser(t, bystanderUID)...), newLocker(t)
	for i := range limit {
		attacker.must("ok", "take", m.path(fmt.Sprintf("a%d.lock", i)))
	}
	attacker.must("EDQUOT", "take", m.path("more.lock"))
	attacker.must("EEXIST", "take", m.path("a0.lock"))
	attacker.must("ok", "keep", m.path("data"), "/proc/self/exe") // what is no lock is not limited
	if exists(m.path("more.lock")) {
		t.Error("a lock that was refused left a file")
	}
	bystander.must("ok", "take", m.path("b.lock"))
	for i := range limit + 10 {
		root.must("ok", "take", m.path(fmt.Sprintf("r%d.lock", i)))
	}
	// The count survives the server and the mount.
	m.killServer()
	m.eventuallyServed()
	attacker.must("EDQUOT", "take", m.path("more.lock"))
	m.kill()
	m.start()
	attacker.must("EDQUOT", "take", m.path("more.lock"))
	attacker.must("ok", "remove", m.path("a0.lock"))
	attacker.must("ok", "take", m.path("more.lock"))
	attacker.kill()
	another := newLocker(t, asUser(t, attackerUID)...)
	eventually(t, "the locks of the dead do not count", func() bool { return another.do("take", m.path("more.lock")) == "ok" })
}

// TestWaitingIsLimited: one user cannot wait and follow events without end, and what it has costs the server little; others do not notice.
func TestWaitingIsLimited(t *testing.T) {
	const limit = 20
	m := mountOver(t, sharedDir(t), "--max-waiting-per-user", strconv.Itoa(limit))
	holder := newLocker(t)
	holder.must("ok", "take", m.path("x.lock"))
	events := m.path(".latchfs/events")
	for range limit {
		openAs(t, attackerUID, events, unix.O_RDONLY)
	}
	attacker, bystander := newLocker(t, asUser(t, attackerUID)...), newLocker(t, asUser(t, bystanderUID)...)
	attacker.must("EDQUOT", "read", events)
	bystander.must("ok", "read", events)
	attacker.must("ok", "crowd", m.wait("x.lock"), strconv.Itoa(limit))
	m.eventuallyWaiting(limit)
	another := newLocker(t, asUser(t, attackerUID)...)
	another.must("EDQUOT", "await", m.wait("x.lock"))
	bystander.must("ok", "await", m.wait("y.lock"))
	if n := m.metric("latchfs_waiting_refusals_total"); n != 2 {
		t.Errorf("%v refusals", n)
	}
	if n := m.metric("latchfs_event_readers"); n != limit {
		t.Errorf("%v readers of events", n)
	}
	attacker.kill()
	m.eventuallyWaiting(0)
	another.must("ok", "await", m.wait("z.lock"))
}

// TestManyEventStreams: 10,000 streams that nobody reads cost neither memory nor time.
func TestManyEventStreams(t *testing.T) {
	m := mountOver(t, sharedDir(t))
	const streams = 10_000
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil || files.Cur < streams+1000 {
		t.Skipf("%d descriptors: %v", files.Cur, err)
	}
	holder := newLocker(t)
	cycles := func() time.Duration {
		start := time.Now()
		holder.must("ok", "cycle", m.path("x.lock"), "2000")
		return time.Since(start)
	}
	openAs(t, 0, m.path(".latchfs/events"), unix.O_RDONLY)
	memory := func() int { return statusNumber(t, fmt.Sprintf("/proc/%d/status", m.server()), "VmRSS:") }
	before, one := cycles(), memory()
	for range streams {
		openAs(t, 0, m.path(".latchfs/events"), unix.O_RDONLY)
	}
	after, many := cycles(), memory()
	t.Logf("%v and %d KiB, %v and %d KiB", before, one, after, many)
	if many > one+50<<10 || after > 5*before {
		t.Errorf("2,000 cycles took %v and %d KiB with one stream, %v and %d KiB with %d", before, one, after, many, streams)
	}
}

// kernelBefore reports whether the kernel is older than a version.
func kernelBefore(t *testing.T, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var is [2]int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &is[0], &is[1]); err != nil {
		t.Fatal(err)
	}
	return slices.Compare(is[:], []int{major, minor}) < 0
}

// TestDescriptorsAreShared: a user that opens all it may leaves the others room, and a tree of more directories than latchfs
// has descriptors is served, whether files can be opened by handle or not.
func TestDescriptorsAreShared(t *testing.T) {
	needProgram(t, "prlimit")
	for _, without := range []string{"-sys_resource", "-sys_resource,-dac_read_search"} {
		t.Run("without "+without, func(t *testing.T) {
			dir := sharedDir(t)
			for i := range 1500 {
				if err := os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("text"), 0o644); err != nil {
				t.Fatal(err)
			}
			m := mountOver(t, dir)
			m.kill()
			m.start("prlimit", "--nofile=700:700", "setpriv", "--inh-caps="+without, "--bounding-set="+without)
			if kernelBefore(t, 6, 18) {
				t.Log("the kernel cannot be asked to forget directories here")
			} else {
				inShell(t, m.dir, `test $(find . -type d | wc -l) = 1501; test $(find . -type d | wc -l) = 1501`)
			}
			attacker, bystander := newLocker(t, asUser(t, attackerUID)...), newLocker(t, asUser(t, bystanderUID)...)
			attacker.must("ENFILE", "open", m.path("file"), "10000")
			check := func() {
				t.Helper()
				attacker.must("ENFILE", "open", m.path("file"), "10000")
				bystander.must("ok", "read", m.path("file"))
				bystander.must("ok", "cycle", m.path("x.lock"), "10")
				bystander.must("ok", "take", m.path("y.lock"))
				attacker.must("EEXIST", "take", m.path("y.lock"))
				bystander.must("ok", "remove", m.path("y.lock"))
				if out, err := exec.Command(latchfs, "ls", m.dir).CombinedOutput(); err != nil {
					t.Errorf("latchfs ls: %v: %s", err, out)
				}
			}
			check()
			if m.metric("latchfs_open_refusals_total") == 0 || m.metric("latchfs_open_files") < 100 {
				t.Error("the metrics do not say it")
			}
			m.killServer()
			m.eventuallyServed()
			check()
			attacker.kill()
			eventually(t, "what it had open is closed", func() bool { return m.metric("latchfs_open_files") < 10 })
			another := newLocker(t, asUser(t, attackerUID)...)
			another.must("ok", "open", m.path("file"), "100")
		})
	}
}

// TestOddNames: locks at names of odd bytes, of the greatest length, and deeper than a path can say.
func TestOddNames(t *testing.T) {
	m := mountOver(t, t.TempDir())
	var names []string
	for _, name := range []string{
		strings.Repeat("n", 250) + ".lock", " .lock", "new\nline.lock", "\x1b[31mred.lock", "\xff\xfe.lock", `"quoted\".lock`, "-.lock", "\u202egnp.lock", "..lock",
	} {
		names = append(names, name)
		first, second := newLocker(t), newLocker(t)
		path := strings.ReplaceAll(strconv.QuoteToASCII(m.path(name)), " ", `\x20`)
		if !strings.Contains(path, `\xff`) {
			path = strings.ReplaceAll(strconv.Quote(m.path(name)), " ", `\x20`)
		}
		first.must("ok", "take", path)
		second.must("EEXIST", "take", path)
		second.must("EBUSY", "remove", path)
		first.kill()
		eventually(t, fmt.Sprintf("%q is free", name), func() bool { return second.do("take", path) == "ok" })
	}
	out, err := exec.Command(latchfs, "ls", m.dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(out, func(b byte) bool { return b < ' ' && b != '\n' || b == 0x7f }); i >= 0 {
		t.Errorf("latchfs ls prints what a terminal obeys: %q", out[i:])
	}
	var listed []string
	for name := range m.locks() {
		listed = append(listed, name)
	}
	if len(listed) < len(names) {
		t.Errorf("%d of %d are listed: %q", len(listed), len(names), listed)
	}

	first, second := newLocker(t), newLocker(t)
	for _, p := range []*process{first, second} {
		p.must("ok", "enter", m.dir)
		for range 40 {
			p.must("ok", "enter", strings.Repeat("d", 200))
		}
	}
	first.must("ok", "take", "deep.lock")
	second.must("EEXIST", "take", "deep.lock")
	second.must("EBUSY", "remove", "deep.lock")
	first.kill()
	eventually(t, "the deep lock is free", func() bool { return second.do("take", "deep.lock") == "ok" })
	second.must("ok", "remove", "deep.lock")
	second.kill()
}

// TestNoWayOut: while parents are exchanged for symbolic links that lead out of the directory, nothing
// outside is read, made or removed.
func TestNoWayOut(t *testing.T) {
	needFUSE(t)
	outside := sharedDir(t)
	if err := os.WriteFile(filepath.Join(outside, "file"), []byte("outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(outside, "x.lock"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o700); err != nil { // its users may not go there themselves
		t.Fatal(err)
	}
	m := mountOver(t, sharedDir(t))
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
		echo $rounds rounds`, m.dir, outside)
	words := append(asUser(t, attackerUID), "bash", "-c", script)
	var out logBuffer
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the attacker is ready", func() bool { return strings.Contains(out.String(), "ready") })
	exchanges := 0
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); exchanges++ {
		if err := unix.Renameat2(unix.AT_FDCWD, m.path("a/d"), unix.AT_FDCWD, m.path("a/s"), unix.RENAME_EXCHANGE); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.path("stop"), nil, 0o644); err != nil {
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

// denyingACL is mode 0755 for all but one user (linux/posix_acl_xattr.h).
func denyingACL(uid uint32) (acl []byte) {
	const undefined = ^uint32(0)
	acl = binary.LittleEndian.AppendUint32(acl, 2)
	for _, e := range []struct{ tag, perm, id uint32 }{{1, 7, undefined}, {2, 0, uid}, {4, 5, undefined}, {0x10, 5, undefined}, {0x20, 5, undefined}} {
		acl = binary.LittleEndian.AppendUint32(acl, e.perm<<16|e.tag)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	return acl
}

// TestPrivateDirectory: another user hears nothing of the locks in a directory that is closed to it, whatever it looks at; the
// directory's owner and root hear everything. By mode or by ACL, and where names may be looked up but not listed too.
func TestPrivateDirectory(t *testing.T) {
	m := mountOver(t, sharedDir(t))
	owner, dead := newLocker(t, asUser(t, bystanderUID)...), newLocker(t, asUser(t, bystanderUID)...)
	private := m.path("private")
	owner.must("ok", "mkdir", private)
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	owner.must("ok", "mkdir", private+"/sub")
	owner.must("ok", "take", private+"/secret.lock")
	dead.must("ok", "take", private+"/secret-dead.lock")
	if err := unix.Link(private+"/secret.lock", m.path("linked.lock")); err != nil {
		t.Fatal(err)
	}
	read := func(uid int, name string) string {
		words := append(asUser(t, uid), "cat", m.path(".latchfs/"+name))
		out, _ := exec.Command(words[0], words[1:]...).CombinedOutput()
		return string(out)
	}
	events := make(map[int]int)
	for _, uid := range []int{attackerUID, bystanderUID, 0} {
		events[uid] = openAs(t, uid, m.path(".latchfs/events"), unix.O_RDONLY|unix.O_NONBLOCK)
	}
	dead.kill()
	eventually(t, "the dead one's lock is kept", func() bool { return strings.Contains(read(0, "reclaimed"), "secret-dead") })
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
		time.Sleep(150 * time.Millisecond) // what users may see is remembered for a moment
		for _, name := range []string{"locks", "locks.json", "reclaimed", "events"} {
			for uid, fd := range events {
				var text string
				if name != "events" {
					text = read(uid, name)
				} else {
					owner.must("ok", "take", private+"/secret-new.lock")
					owner.must("ok", "remove", private+"/secret-new.lock")
					owner.must("ok", "take", m.path("public.lock"))
					owner.must("ok", "remove", m.path("public.lock"))
					eventually(t, "the last event", func() bool {
						var buf [64 << 10]byte
						n, _ := unix.Read(fd, buf[:])
						text += string(buf[:max(n, 0)])
						return strings.Contains(text, "public.lock")
					})
				}
				if seen := strings.Contains(text, "secret"); seen != (uid != attackerUID) {
					t.Errorf("%v %v: user %d in %s: %s", mode, denied, uid, name, text)
				}
			}
		}
	}
	looks(0o700)
	looks(0o711)
	looks(0o755, attackerUID)
	stranger := newLocker(t, asUser(t, attackerUID)...)
	for _, name := range []string{"lock/private/secret.lock", "lock/private/no.lock", "wait/private/sub", "wait/private/no", "wait/private/secret.lock"} {
		stranger.must("EACCES", "look", m.path(".latchfs/"+name))
	}
	for _, name := range []string{"private/secret.lock", "private/no.lock"} {
		stranger.must("EACCES", "write", m.path(".latchfs/ctl"), "release "+name)
	}
	for _, dir := range []string{"lock", "lock/private"} {
		words := append(asUser(t, attackerUID), "ls", m.path(".latchfs/"+dir))
		if out, err := exec.Command(words[0], words[1:]...).Output(); err != nil || strings.Contains(string(out), "private") || strings.Contains(string(out), "secret") {
			t.Errorf("%s lists %q: %v", dir, out, err)
		}
	}
	value := make([]byte, 100)
	as(attackerUID, func() {
		if _, err := unix.Lgetxattr(m.path("linked.lock"), "user.latchfs.holder.pid", value); err != unix.ENODATA {
			t.Errorf("the attribute of a link: %v", err)
		}
	})
	as(bystanderUID, func() {
		if _, err := unix.Lgetxattr(private+"/secret.lock", "user.latchfs.holder.pid", value); err != nil {
			t.Errorf("the attribute of its own: %v", err)
		}
	})
}
