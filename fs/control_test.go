//go:build linux

package fs

import (
	"path"
	"strings"
	"testing"
)

// FuzzParseCommand: a command names a path, without detours, and is one of two.
func FuzzParseCommand(f *testing.F) {
	for _, seed := range []string{"release x.lock", "force-release a/b.lock\n", "release ", "release ../../etc/passwd", "release a b\nrelease c", "", " ", "\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := parseCommand(text)
		isForce, isRelease := strings.HasPrefix(string(text), "force-release "), strings.HasPrefix(string(text), "release ")
		switch {
		case err != nil && c != command{}:
			t.Errorf("%q: %+v with %v", text, c, err)
		case err == nil && (c.name == "" || c.name != path.Clean(c.name) || c.force != isForce || isForce == isRelease):
			t.Errorf("%q: %+v", text, c)
		}
	})
}
