package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mount(8) runs a program of this name for mount -t fuse.latchfs and for fstab(5), as
//
//	mount.fuse.latchfs SOURCE DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]
//
// which is latchfs mount --daemon DIR. Each option is a flag of that, with _ for - if one likes. Commas separate options,
// but not within double quotes, which mount(8) passes on: lock_pattern="*.lock,keep".
const mountHelper = "mount.fuse.latchfs"

// notFlags are options of mount(8) that say nothing to latchfs, or what is so anyhow.
var notFlags = []string{
	"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "async", "exec", "suid", "dev",
	"atime", "relatime", "strictatime", "diratime", "default_permissions",
}

// isMountHelper says that mount(8) has called.
func isMountHelper() bool { return filepath.Base(os.Args[0]) == mountHelper }

// helperArgs are the arguments of latchfs that say the same as those of mount(8); nil if it only wants to know whether they make
// sense (-f).
func helperArgs(args []string) ([]string, error) {
	var places, options []string
	sloppy, fake := false, false
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-o" || arg == "-t" || arg == "-N":
			if i++; i == len(args) {
				return nil, usageError{fmt.Errorf("%s wants something", arg)}
			}
			if arg == "-o" {
				some, err := splitOptions(args[i])
				if err != nil {
					return nil, err
				}
				options = append(options, some...)
			}
		case strings.HasPrefix(arg, "-") && strings.Trim(arg[1:], "sfnvr") == "":
			sloppy = sloppy || strings.Contains(arg, "s")
			fake = fake || strings.Contains(arg, "f")
			if strings.Contains(arg, "r") {
				options = append(options, "ro")
			}
		case strings.HasPrefix(arg, "-"):
			return nil, usageError{fmt.Errorf("unknown option %s", arg)}
		default:
			places = append(places, arg)
		}
	}
	if len(places) != 2 {
		return nil, usageError{fmt.Errorf("usage: %s DIR DIR [-o OPTIONS]", mountHelper)}
	}
	if err := sameDir(places[0], places[1]); err != nil {
		return nil, err
	}
	translated := []string{"mount", "--daemon"}
	for _, option := range options {
		flag, err := optionFlag(option, sloppy)
		if err != nil {
			return nil, err
		}
		translated = append(translated, flag...)
	}
	if fake {
		return nil, nil
	}
	return append(translated, "--", places[1]), nil
}

// splitOptions splits text at the commas outside of double quotes, and removes the quotes.
func splitOptions(text string) (options []string, err error) {
	var option strings.Builder
	quoted := false
	for _, c := range []byte(text) {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			options = append(options, option.String())
			option.Reset()
		default:
			option.WriteByte(c)
		}
	}
	if quoted {
		return nil, usageError{fmt.Errorf("-o %s: a double quote has no end", text)}
	}
	return append(options, option.String()), nil
}

// sameDir is the check of SOURCE, which is what is mounted over, or a word.
func sameDir(source, dir string) error {
	from, err := os.Stat(source)
	if err != nil && !strings.Contains(source, "/") {
		return nil
	}
	to, dirErr := os.Stat(dir)
	switch {
	case dirErr != nil:
		return dirErr
	case err != nil || !os.SameFile(from, to):
		return usageError{fmt.Errorf("latchfs is mounted over a directory, not elsewhere: give %s as the source too, not %s", dir, source)}
	}
	return nil
}

// optionFlag is the flag that an option stands for, or none.
func optionFlag(option string, sloppy bool) ([]string, error) {
	name, value, valued := strings.Cut(option, "=")
	name = strings.ReplaceAll(name, "_", "-")
	flag := mountCommand().Flags().Lookup(name)
	switch {
	case option == "", slices.Contains(notFlags, option), strings.HasPrefix(option, "x-"), strings.HasPrefix(option, "comment="):
		return nil, nil
	case option == "ro":
		return nil, errors.New("there is no read-only latchfs, since to lock is to make a file; mount what is beneath read-only, and latchfs over it is too")
	case option == "remount":
		return nil, errors.New("a latchfs mount cannot be given other options while it is mounted: unmount it and mount it again")
	case flag != nil && name != "daemon" && valued:
		return []string{"--" + name + "=" + value}, nil
	case flag != nil && name != "daemon" && flag.NoOptDefVal != "":
		return []string{"--" + name}, nil
	case flag != nil && name != "daemon":
		return nil, usageError{fmt.Errorf("option %s wants a value (%s=VALUE)", option, option)}
	case sloppy:
		return nil, nil
	}
	return nil, usageError{fmt.Errorf("unknown option %s; those there are are the flags of latchfs mount --help, and a value with commas is in double quotes", option)}
}
