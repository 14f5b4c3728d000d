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
// It corresponds to latchfs mount --daemon DIR. Each option is a flag of latchfs mount; the user may write _ for -.
// Commas separate options, except within double quotes, which mount(8) passes on: lock_pattern="*.lock,keep".
const mountHelper = "mount.fuse.latchfs"

// notFlags are options of mount(8) that are not for latchfs, or that match its behaviour.
var notFlags = []string{
	"rw", "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev", "async", "exec", "suid", "dev",
	"atime", "relatime", "strictatime", "diratime", "default_permissions",
}

// isMountHelper reports whether mount(8) started this process.
func isMountHelper() bool { return filepath.Base(os.Args[0]) == mountHelper }

// helperArgs translates the arguments from mount(8) to arguments of latchfs. With -f, which only checks the arguments,
// it returns nil.
func helperArgs(args []string) ([]string, error) {
	var places, options []string
	sloppy, fake := false, false
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-o" || arg == "-t" || arg == "-N":
			if i++; i == len(args) {
				return nil, usageError{fmt.Errorf("%s needs a value", arg)}
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

// splitOptions splits text at the commas outside double quotes, and removes the quotes.
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
		return nil, usageError{fmt.Errorf("-o %s: a double quote is not closed", text)}
	}
	return append(options, option.String()), nil
}

// sameDir checks that SOURCE is the directory to mount over, or a word without a slash that is not a file.
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
		return usageError{fmt.Errorf("latchfs serves the directory that it is mounted over: give %s as the source too, not %s", dir, source)}
	}
	return nil
}

// optionFlag returns the flag for an option, or nothing for an option that latchfs ignores.
func optionFlag(option string, sloppy bool) ([]string, error) {
	name, value, valued := strings.Cut(option, "=")
	name = strings.ReplaceAll(name, "_", "-")
	flag := mountCommand().Flags().Lookup(name)
	switch {
	case option == "", slices.Contains(notFlags, option), strings.HasPrefix(option, "x-"), strings.HasPrefix(option, "comment="):
		return nil, nil
	case option == "ro":
		return nil, errors.New("latchfs has no read-only mode, because a lock is a new file; mount the backing filesystem read-only instead")
	case option == "remount":
		return nil, errors.New("the options of a latchfs mount cannot change while it is mounted: unmount it and mount it again")
	case flag != nil && name != "daemon" && valued:
		return []string{"--" + name + "=" + value}, nil
	case flag != nil && name != "daemon" && flag.NoOptDefVal != "":
		return []string{"--" + name}, nil
	case flag != nil && name != "daemon":
		return nil, usageError{fmt.Errorf("option %s needs a value (%s=VALUE)", option, option)}
	case sloppy:
		return nil, nil
	}
	return nil, usageError{fmt.Errorf("unknown option %s; see latchfs mount --help for the options, and put a value with commas in double quotes", option)}
}
