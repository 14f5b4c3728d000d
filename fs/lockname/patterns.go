// Package lockname tells by patterns which names are those of locks, and which attributes these locks have.
package lockname

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"latchfs/lockstore"
)

// Default is the pattern that applies if no pattern says which names are locks.
const Default = "*.lock"

// Patterns say which names are locks, and which attributes these locks have. A name is the last
// component of a path. The zero value matches no name.
type Patterns struct {
	given         []string
	locks, except []pattern
}

// pattern matches names as path.Match does.
type pattern struct {
	text       string
	attributes lockstore.Attributes
	// ending is the text after the *, if byEnding: text is a * followed by characters that stand for themselves.
	ending   string
	byEnding bool
}

// Parse reads patterns of two forms, in any order. PATTERN[,opaque][,keep][,close] says that names are locks. !PATTERN
// says that names are no locks although another pattern matches them. Without a pattern of the first form, Default
// applies too.
func Parse(given []string) (Patterns, error) {
	p, all := Patterns{given: given}, given
	if !slices.ContainsFunc(given, func(text string) bool { return !strings.HasPrefix(text, "!") }) {
		all = append(slices.Clone(given), Default)
	}
	for _, text := range all {
		into, parse := &p.locks, parsePattern
		if strings.HasPrefix(text, "!") {
			into, parse = &p.except, parseException
		}
		parsed, err := parse(text)
		if err != nil {
			return Patterns{}, fmt.Errorf("lock pattern %q: %w", text, err)
		}
		*into = append(*into, parsed)
	}
	return p, nil
}

// parsePattern reads PATTERN[,opaque][,keep][,close].
func parsePattern(text string) (pattern, error) {
	words := strings.Split(text, ",")
	var a lockstore.Attributes
	for _, word := range words[1:] {
		switch word {
		case "opaque":
			a.Opaque = true
		case "keep":
			a.Keep = true
		case "close":
			a.Close = true
		default:
			return pattern{}, fmt.Errorf("unknown attribute %q; allowed are opaque, keep and close, "+
				"and a pattern cannot contain a comma", word)
		}
	}
	return newPattern(words[0], a)
}

// parseException reads !PATTERN.
func parseException(text string) (pattern, error) {
	if strings.Contains(text, ",") {
		return pattern{}, errors.New("!PATTERN takes no attributes, and a pattern cannot contain a comma")
	}
	return newPattern(text[len("!"):], lockstore.Attributes{})
}

func newPattern(text string, a lockstore.Attributes) (pattern, error) {
	if strings.Contains(text, "/") {
		return pattern{}, errors.New("it is matched against names, which have no slash")
	}
	if _, err := path.Match(text, "x"); err != nil || text == "" {
		return pattern{}, fmt.Errorf(`%w; allowed are names with *, ? and [a-z], `+
			`and \ before a character that stands for itself`, path.ErrBadPattern)
	}
	ending, any := strings.CutPrefix(text, "*")
	return pattern{text: text, attributes: a, ending: ending, byEnding: any && !strings.ContainsAny(ending, `*?[\`)}, nil
}

// Match reports whether name is that of a lock.
func (p Patterns) Match(name string) bool {
	return anyMatches(p.locks, name) && !anyMatches(p.except, name)
}

// Attributes returns the attributes of the lock at name: those of all patterns that match it, added up. A name that is
// not that of a lock has none.
func (p Patterns) Attributes(name string) (sum lockstore.Attributes) {
	if anyMatches(p.except, name) {
		return sum
	}
	for i := range p.locks {
		if p.locks[i].match(name) {
			sum = sum.Add(p.locks[i].attributes)
		}
	}
	return sum
}

// Strings returns the patterns as they were given.
func (p Patterns) Strings() []string { return p.given }

func anyMatches(patterns []pattern, name string) bool {
	for i := range patterns {
		if patterns[i].match(name) {
			return true
		}
	}
	return false
}

func (p *pattern) match(name string) bool {
	// The result is that of path.Match, but faster: every request asks several times.
	if p.byEnding {
		return strings.HasSuffix(name, p.ending)
	}
	match, _ := path.Match(p.text, name) // Parse has checked the pattern
	return match
}
