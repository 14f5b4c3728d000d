package main

import (
	"path"

	"github.com/spf13/pflag"

	"latchfs/fs/lockname"
	"latchfs/lockstore"
)

// lockPatternVar adds the flag --lock-pattern, whose values are for latch.ParsePatterns.
func lockPatternVar(f *pflag.FlagSet, given *[]string) {
	f.StringArrayVar(given, "lock-pattern", []string{lockname.Default}, "names that are locks, as PATTERN[,opaque][,keep][,close], or that are none, as !PATTERN; PATTERN is that of path.Match; repeatable. "+
		"opaque: the bytes say nothing, the maker holds the lock; keep: the lock outlives its process, until it is removed, released or too old; "+
		"close: the lock ends when the descriptor it was made with is closed")
}

// attributesBy returns the attributes that patterns give to the lock at a path.
func attributesBy(patterns lockname.Patterns) func(name string) lockstore.Attributes {
	return func(name string) lockstore.Attributes { return patterns.Attributes(path.Base(name)) }
}
