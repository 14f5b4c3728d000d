package lockstore

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
)

const (
	// maxEntries is how many short texts a directory may hold and be a lock, though none of them names a process.
	maxEntries = 4
	// maxLooked is how many entries of a directory are looked at.
	maxLooked = 16
)

// otherClaim is the claim of a text that names a process of another family.
var otherClaim = payload.Claim{Class: payload.Data, Other: true}

// content is what lies at a lock name, as far as a decision needs it.
type content struct {
	File
	claim   payload.Claim  // what it says of a process of its writer's family
	named   bootid.Process // that process, which may have ended
	hidden  error          // why another process that it names cannot be looked at
	form    payload.Claim  // what it says by its form alone
	written time.Time      // when the file that has the form was last written
	owner   uint32         // the user that file belongs to
	sum     [16]byte
}

// inspect reads what lies at a lock name, as a text of the family. A family of nobody leaves only the form of the
// text to decide what it says.
func (s *Store) inspect(name string, family *family) (content, error) {
	file, err := s.files.Stat(name)
	if err != nil {
		return content{}, err
	}
	return s.read(name, file, family)
}

// read reads a file that Stat described.
func (s *Store) read(name string, file File, family *family) (content, error) {
	c := content{File: file, written: file.Written, owner: file.UID}
	digest := sha256.New()
	if s.attributesOf(name).Opaque {
		return c, nil // of class Empty
	}
	var err error
	if file.Type == Directory {
		err = s.readDirectory(name, &c, family, digest)
	} else if text, textErr := s.text(name, file); textErr == nil {
		if c.take(text, path.Base(name), family); c.form.Class == payload.Naming { // the bytes of others do not matter
			digest.Write(text)
		}
	} else {
		err = textErr
	}
	copy(c.sum[:], digest.Sum(nil))
	return c, err
}

// take reads the claims in a text of the file with that base name.
func (c *content) take(text []byte, name string, family *family) {
	c.form = payload.Found(text)
	if !family.writer.Known() {
		c.claim = c.form
		return
	}
	family.hidden = nil
	c.claim = payload.Read(text, name, func(claim payload.Claim) bool { return family.includes(claim, c.written) })
	if c.claim.Class == payload.Naming {
		c.named = family.found
	}
	c.hidden = family.hidden
}

// text returns the content of a file that is no directory. Of a long file it returns enough to show that it is
// data; a file that is neither regular nor a symbolic link is data too.
func (s *Store) text(name string, file File) ([]byte, error) {
	switch {
	case file.Type == Symlink:
		text, err := s.files.Readlink(name)
		return []byte(text), err
	case file.Type != Regular:
		return []byte{0}, nil
	case file.Size == 0:
		return nil, nil
	}
	r, err := s.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	// One byte more than its size: it may be growing.
	text := make([]byte, min(file.Size, payload.Limit)+1)
	n, err := io.ReadFull(r, text)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	return text[:n], nil
}

// readDirectory reads a directory. A text in it, or a file's name, may name a process. If none does, a few short
// texts are notes. A directory with anything else in it is data; so is a directory in which a text names a process
// of another family: it is a copy.
func (s *Store) readDirectory(name string, c *content, family *family, digest hash.Hash) error {
	entries, err := s.files.Entries(name, maxLooked)
	if err != nil {
		return err
	}
	slices.Sort(entries)
	c.take(nil, path.Base(name), family) // its own name may name a process too
	dir, data, onlyEmpty := *c, len(entries) > maxEntries, true
	for _, entry := range entries {
		in := content{}
		var text []byte
		if in.File, err = s.files.Stat(name + "/" + entry); err == nil {
			in.written, in.owner = in.Written, in.UID
			text, err = s.text(name+"/"+entry, in.File)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		data = data || len(text) > payload.Limit || !payload.IsText(text)
		in.take(text, entry, family)
		fmt.Fprintf(digest, "%d %s%d %s", len(entry), entry, len(text), text)
		onlyEmpty = onlyEmpty && in.form.Class == payload.Empty
		if in.Changed.After(dir.Changed) {
			dir.Changed = in.Changed
		}
		if in.form.Class == payload.Naming && in.form.PID != 0 && !in.form.Weak && dir.form.Class != payload.Naming {
			dir.form, dir.written, dir.owner = in.form, in.written, in.owner
		}
		switch {
		case in.claim.Class == payload.Naming && dir.claim.Class != payload.Naming:
			dir.claim, dir.named = in.claim, in.named
		case in.claim.Other && dir.claim.Class == payload.Empty:
			dir.claim = in.claim
		}
		dir.hidden = errors.Join(dir.hidden, in.hidden)
	}
	if data || dir.form.Class == payload.Empty && !onlyEmpty {
		dir.form = payload.Claim{Class: payload.Data}
	}
	if !family.writer.Known() {
		dir.claim = dir.form
	} else if data && dir.claim.Class != payload.Naming {
		dir.claim = payload.Claim{Class: payload.Data}
	}
	*c = dir
	return nil
}
