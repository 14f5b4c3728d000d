package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// readControl reads a JSON file of the control directory of the mount that dir is the
// root of.
func readControl(dir, name string, into any) error {
	text, err := os.ReadFile(filepath.Join(dir, ".latchfs", name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return coded{exitMounted, fmt.Errorf("%s is not a latchfs mount", dir)}
	case isDead(err):
		return coded{exitMounted, fmt.Errorf("%s: the latchfs that served it has died; mount it again", dir)}
	case err != nil:
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, ".latchfs", name), err)
	}
	return nil
}
