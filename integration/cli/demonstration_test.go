//go:build linux

package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchfs/integration/harness"
)

// TestDemonstration types the commands of the README's demonstration into a terminal and compares the screen with
// the README, except for pids and times.
func TestDemonstration(t *testing.T) {
	harness.NeedFUSE(t)
	harness.NeedProgram(t, "tmux")
	text, err := os.ReadFile(harness.RepoPath("README.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```console\n(.*?)```").FindSubmatch(text)
	if shown == nil {
		t.Fatal("the README shows no console")
	}
	home, socket := t.TempDir(), filepath.Join(t.TempDir(), "tmux")
	if err := os.Mkdir(home+"/sessions", 0o755); err != nil {
		t.Fatal(err)
	}
	tmux := func(words ...string) string {
		t.Helper()
		out, err := exec.Command("tmux", append([]string{"-S", socket, "-f", "/dev/null"}, words...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("tmux %v: %v: %s", words, err, out)
		}
		return string(out)
	}
	shell := fmt.Sprintf(`HOME=%s PATH=%s:$PATH PS1='$ ' LC_ALL=C.UTF-8 XDG_STATE_HOME=%s TMOUT= HISTFILE= exec bash --norc --noprofile`, home, filepath.Dir(harness.Latchfs), t.TempDir())
	tmux("new-session", "-d", "-x", "200", "-y", "100", shell)
	t.Cleanup(func() {
		tmux("kill-server")
		_ = unix.Unmount(home+"/sessions", unix.MNT_DETACH)
	})
	screen := func() string {
		trimmed := regexp.MustCompile(`(?m) +$`).ReplaceAllString(tmux("capture-pane", "-p", "-J"), "")
		return strings.ReplaceAll(strings.TrimRight(trimmed, "\n"), home, "~")
	}
	prompts := 1
	ready := func() bool {
		now := screen()
		return strings.Count("\n"+now, "\n$") == prompts && strings.HasSuffix(now, "\n$") || now == "$"
	}
	harness.Eventually(t, "the shell is ready", ready)
	for _, line := range strings.Split(string(shown[1]), "\n") {
		if command, is := strings.CutPrefix(line, "$ "); is {
			tmux("send-keys", "-l", command)
			tmux("send-keys", "Enter")
			prompts++
			harness.Eventually(t, "the prompt is back after "+command+"\n"+screen(), ready)
		}
	}
	got := strings.TrimSuffix(strings.TrimSuffix(screen(), "$"), "\n")
	if normal(got) != normal(strings.TrimSpace(string(shown[1]))) {
		t.Errorf("the README shows\n%s\nand the terminal\n%s", shown[1], got)
	}
}

// normal replaces pids, start times and ages in a text, and the widths of columns.
func normal(text string) string {
	text = regexp.MustCompile(`\d+`).ReplaceAllString(text, "N")
	return regexp.MustCompile(` +`).ReplaceAllString(text, " ")
}
