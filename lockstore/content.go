package lockstore

import (
	"errors"
	"io"
	"io/fs"
	"time"
)

// maxEntries is how many files a directory that is a lock may hold.
const maxEntries = 16

// content is what lies at a lock name, as far as a decision needs it.
type content struct {
	File
	Payload
	// written is when the payload was last written, by whom its owner tells.
	written time.Time
	owner   uint32
}

// inspect reads what lies at a lock name.
func (s *Store) inspect(name string) (content, error) {
	file, err := s.files.Stat(name)
	if err != nil {
		return content{}, err
	}
	return s.read(name, file)
}

// read does so for a file that Stat described.
func (s *Store) read(name string, file File) (content, error) {
	c := content{File: file, written: file.Written, owner: file.UID}
	var err error
	switch file.Type {
	case Regular:
		c.Payload, err = s.readFile(name, file)
	case Symlink:
		var text string
		text, err = s.files.Readlink(name)
		c.Payload = ParsePayload([]byte(text))
	case Directory:
		return s.readDirectory(name, c)
	default:
		c.Payload.Class = Data
	}
	return c, err
}

func (s *Store) readFile(name string, file File) (Payload, error) {
	switch {
	case file.Size > maxPayload:
		return Payload{Class: Data}, nil
	case file.Size == 0:
		return Payload{Class: Empty}, nil
	}
	r, err := s.files.Open(name)
	if err != nil {
		return Payload{}, err
	}
	defer r.Close()
	// One byte more than it had: it may be written at this moment.
	text := make([]byte, min(file.Size+1, maxPayloadRead))
	n, err := io.ReadFull(r, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Payload{}, err
	}
	return ParsePayload(text[:n]), nil
}

// readDirectory finds the file directly in a directory that names a process. Beside it
// there may be other small files; a directory with anything else in it is data.
func (s *Store) readDirectory(name string, c content) (content, error) {
	entries, err := s.files.Entries(name, maxEntries)
	if err != nil {
		return c, err
	}
	names, onlyEmpty, small := false, true, len(entries) <= maxEntries
	for _, entry := range entries {
		if !small {
			break
		}
		path := name + "/" + entry
		file, err := s.files.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return c, err
		}
		small = file.Type == Regular && file.Size <= maxPayload
		if !small {
			break
		}
		payload, err := s.readFile(path, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return c, err
		}
		onlyEmpty = onlyEmpty && payload.Class == Empty
		if payload.Class == Naming && !payload.Weak && !names {
			names = true
			c.Payload, c.written, c.owner = payload, file.Written, file.UID
			if file.Changed.After(c.Changed) {
				c.Changed = file.Changed
			}
		}
	}
	switch {
	case small && onlyEmpty:
		c.Payload = Payload{Class: Empty}
	case !small || !names:
		c.Payload = Payload{Class: Data}
	}
	return c, nil
}
