//go:build linux

package fs

import (
	"path"
	"strings"
	"testing"
)

// FuzzParseCommand: a command is one of those there are, and names a path without detours.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"release x.lock", "force-release a/b.lock\n", "release ", "release ../../etc/passwd", "release a b\nrelease c",
		"", " ", "\x00", "compact", "compact now", "log-level debug\n", "log-level"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCommand(text)
		switch {
		case err != nil:
			if c != (command{}) {
				t.Errorf("%q: %+v with %v", text, c, err)
			}
		case !strings.HasPrefix(string(text), c.word):
			t.Errorf("%q: %+v", text, c)
		case c.word == "release" || c.word == "force-release":
			if c.argument == "" || c.argument != path.Clean(c.argument) {
				t.Errorf("%q: %+v", text, c)
			}
		case (c.word == "compact") != (c.argument == "") || c.word != "compact" && c.word != "log-level":
			t.Errorf("%q: %+v", text, c)
		}
	})
}
