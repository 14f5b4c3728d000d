package fs

import (
	"fmt"
	"path"
	"strings"
)

// Patterns are names of locks: each is matched against the last component of a path, as by
// path.Match.
type Patterns []string

// Check returns what is wrong with them.
func (p Patterns) Check() error {
	for _, pattern := range p {
		if strings.Contains(pattern, "/") {
			return fmt.Errorf("lock pattern %q: it is matched against names, which have no slash", pattern)
		}
		if _, err := path.Match(pattern, "x"); err != nil || pattern == "" {
			return fmt.Errorf("lock pattern %q: %w", pattern, path.ErrBadPattern)
		}
	}
	return nil
}

// Match says that name, the last component of a path, matches one of them.
func (p Patterns) Match(name string) bool {
	for _, pattern := range p {
		// As path.Match, but faster, and asked several times for each request.
		if ending, any := strings.CutPrefix(pattern, "*"); any && !strings.ContainsAny(ending, `*?[\`) {
			if strings.HasSuffix(name, ending) {
				return true
			}
			continue
		}
		// They were checked.
		if match, _ := path.Match(pattern, name); match {
			return true
		}
	}
	return false
}
