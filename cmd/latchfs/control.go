package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"

	"latchfs/fs/control"
)

// controlDir is the control directory in the root of a mount.
const controlDir = ".latchfs"

// readControl reads a JSON file of the control directory of the mount at dir.
func readControl(dir, name string, into any) error {
	path := filepath.Join(dir, controlDir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		return controlError(dir, err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// controlError turns an error from reading a file of the control directory into one for the user.
func controlError(dir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return coded{exitMounted, fmt.Errorf("%s is not a latchfs mount", dir)}
	case isDead(err):
		return coded{exitMounted, fmt.Errorf("%s: the latchfs that served it has died; mount it again", dir)}
	}
	return err
}

// readLocks yields the entries of locks.json while it reads the file, because there may be a million: first the locks
// that were removed as stale, in the order of their removal, then the present ones. It ends after an error.
func readLocks(dir string) iter.Seq2[control.LockInfo, error] {
	return func(yield func(control.LockInfo, error) bool) {
		file, err := os.Open(filepath.Join(dir, controlDir, "locks.json"))
		if err != nil {
			yield(control.LockInfo{}, controlError(dir, err))
			return
		}
		defer file.Close()
		decoder := json.NewDecoder(bufio.NewReaderSize(file, 64<<10)) // a decoder alone reads in small pieces
		_, err = decoder.Token()                                      // the opening bracket
		for err == nil && decoder.More() {
			var l control.LockInfo
			if err = decoder.Decode(&l); err == nil && !yield(l, nil) {
				return
			}
		}
		if err == nil {
			_, err = decoder.Token() // the closing bracket
		}
		if err != nil {
			yield(control.LockInfo{}, controlError(dir, fmt.Errorf("%s: %w", file.Name(), err)))
		}
	}
}

// writeControl writes a command to a file of the control directory. It returns the error that latchfs answers.
func writeControl(dir, name, command string) error {
	file, err := os.OpenFile(filepath.Join(dir, controlDir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.WriteString(command)
	return err
}
