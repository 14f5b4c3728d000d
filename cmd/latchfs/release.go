package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func releaseCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "release [--force] FILE...",
		Short: "Release locks with unknown holders or, with --force, with live holders",
		Long: `Release the locks FILE... in a mount. latchfs removes each file and keeps its content (see
latchfs reclaimed). Only root, the owner of the mount and the owner of the lock may release
a lock. If the holder lives, --force is required: the holder is not told that it has lost
the lock.`,
		Args: checkArgs(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			var failed []error
			for _, file := range args {
				failed = append(failed, release(file, force))
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "release a lock even if its holder lives")
	return cmd
}

func release(file string, force bool) error {
	root, name, err := inMount(file)
	if err != nil {
		return err
	}
	command := "release "
	if force {
		command = "force-release "
	}
	err = writeControl(root, "ctl", command+name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: there is no lock of that name", file)
	case errors.Is(err, fs.ErrPermission):
		return coded{exitForbidden, fmt.Errorf("%s: only root, the mount's owner and the lock's owner may release it", file)}
	case errors.Is(err, syscall.EBUSY):
		return coded{exitBusy, fmt.Errorf("%s: its holder lives (see latchfs ls); use --force to release the lock anyway", file)}
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// inMount returns the root of the latchfs mount that contains file, and the path of file in that mount.
func inMount(file string) (root, name string, err error) {
	dir, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return "", "", err
	}
	for root = dir; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, controlDir, "ctl")); err == nil {
			name, err = filepath.Rel(root, filepath.Join(dir, filepath.Base(file)))
			return root, name, err
		}
		if root == filepath.Dir(root) {
			return "", "", coded{exitMounted, fmt.Errorf("%s is not in a latchfs mount", file)}
		}
	}
}
