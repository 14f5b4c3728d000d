package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// controlDir is where a mount says what latchfs knows.
const controlDir = ".latchfs"

// readControl reads a JSON file of the control directory of the mount that dir is the
// root of.
func readControl(dir, name string, into any) error {
	text, err := os.ReadFile(filepath.Join(dir, controlDir, name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return coded{exitMounted, fmt.Errorf("%s is not a latchfs mount", dir)}
	case isDead(err):
		return coded{exitMounted, fmt.Errorf("%s: the latchfs that served it has died; mount it again", dir)}
	case err != nil:
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, controlDir, name), err)
	}
	return nil
}

// writeControl writes a command to a file of the control directory. Its error is what latchfs
// answered.
func writeControl(dir, name, command string) error {
	file, err := os.OpenFile(filepath.Join(dir, controlDir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(command)
	return err
}
