package lockstore

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/verdict"
)

// Operator is a user who asks for the release of a lock that may be another user's.
type Operator struct {
	Process bootid.Process // for the log
	UID     uint32
	// Opener is the user who opened the file through which the request came. Both users must be allowed to release.
	Opener uint32
	// Owner is the user the mount belongs to.
	Owner uint32
	// Force has a live lock released too.
	Force bool
}

// may reports whether a user may have the lock l, whose file is file, released.
func (o Operator) may(uid uint32, file File, l Lock) bool {
	return uid == 0 || uid == o.Owner || uid == file.UID || l.Holder.Known() && uid == l.Holder.UID
}

// ReleaseFor releases the lock of the name for an operator and removes its file, whose content is kept. It returns
// ErrNoLock, ErrNotOperator, or, without Force, ErrHeld.
func (s *Store) ReleaseFor(name string, o Operator) error {
	s.mu.Lock()
	r := s.locks[name]
	s.mu.Unlock()
	if r == nil {
		return fmt.Errorf("%s: %w", name, ErrNoLock)
	}
	if file, err := s.files.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if l := s.state(r).Lock; !o.may(o.UID, file, l) || !o.may(o.Opener, file, l) {
		return fmt.Errorf("%s: %w", name, ErrNotOperator)
	}
	var refused error
	result := ErrNoLock // if another process was quicker
	err := s.removeIf(r, Released, func(r *record) verdict.Decision {
		d := s.judge(r)
		switch {
		case d.Verdict == verdict.Settled:
			return d
		case d.Verdict == verdict.Live && !o.Force:
			refused = fmt.Errorf("%s: %w by %v", name, ErrHeld, d.Holder)
			return d
		}
		result = nil
		if d.Verdict != verdict.Stale {
			d.Reason = ""
		}
		d.Verdict, d.Evidence = verdict.Stale, "released by an operator; "+d.Evidence
		return d
	})
	switch {
	case refused != nil:
		return refused
	case err != nil:
		return fmt.Errorf("%s: %w", name, err)
	case result != nil:
		return fmt.Errorf("%s: %w", name, result)
	}
	s.log.WithFields(fields(s.state(r).Lock)).
		WithFields(logrus.Fields{"operator": o.Process.String(), "uid": o.UID, "force": o.Force}).
		Info("an operator released a lock")
	return nil
}
