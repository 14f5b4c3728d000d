package main

import (
	"path"

	"github.com/spf13/pflag"

	"latchfs/fs/lockname"
	"latchfs/lockstore"
)

// lockPatternVar adds the flag --lock-pattern. Its values are for [lockname.Parse].
func lockPatternVar(f *pflag.FlagSet, given *[]string) {
	f.StringArrayVar(given, "lock-pattern", []string{lockname.Default}, "names of locks, as PATTERN[,opaque][,keep][,close], or exceptions, as !PATTERN, in the syntax of path.Match; repeatable. "+
		"opaque: the content is ignored, and the creator holds the lock; keep: the lock outlives its process, until it is removed, released or too old; "+
		"close: the lock ends when the descriptor it was made with is closed")
}

// attributesBy returns the attributes that patterns give to the lock at a path.
func attributesBy(patterns lockname.Patterns) func(name string) lockstore.Attributes {
	return func(name string) lockstore.Attributes { return patterns.Attributes(path.Base(name)) }
}
