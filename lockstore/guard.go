package lockstore

import (
	"fmt"

	"github.com/sirupsen/logrus"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// Attempt is what a process wants to do to the file at a name.
type Attempt struct {
	what string // for the log
	// bytes reports that only the content is concerned, which is free in what may be a pid file.
	bytes bool
}

// The attempts that only a lock's holder may make.
var (
	Removing   = Attempt{"remove", false}
	Renaming   = Attempt{"rename", false}
	Replacing  = Attempt{"replace", false}
	Entering   = Attempt{"change the directory", false} // or a file in it
	Writing    = Attempt{"write", true}
	Truncating = Attempt{"truncate", true}
)

// Admit returns ErrHeld if a process must not change or remove the file at the name: the file is a live lock, and
// the process is not of its holder's family. identify returns the process.
func (c NameLock) Admit(identify func() bootid.Process, attempt Attempt) error {
	s := c.store
	r := c.record()
	if r == nil || attempt.bytes && (r.Kind() == verdict.KindPIDFile || r.Kind() == verdict.KindFound) {
		return nil
	}
	caller := identify()
	if caller.Known() && caller.Same(*r.Creator) {
		return nil
	}
	if c.readNow(r); c.record() != r {
		return nil // it turned out to be no lock
	}
	d := s.judge(r)
	if d.Verdict != verdict.Live {
		if d.Verdict == verdict.Settled {
			c.carryOut(r, d)
		}
		return nil
	}
	s.pass(r, d.Holder, d.Rule)
	l := s.state(r).Lock
	if related(s.sys, caller, l.Holder) || related(s.sys, caller, l.Creator) {
		return nil
	}
	// Word that the descriptor of a data file is closed may still be on its way.
	if l := s.state(r); l.Kind == verdict.KindCreate && d.Rule == verdict.RuleCreator {
		found, err := s.inspectOwn(&l)
		if err == nil && found.claim.Class == payload.Data && found.hidden == nil &&
			!s.sys.HasOpen(l.Creator, "/"+l.Name) {
			s.settle(r, "it holds data, and its creator has closed it")
			return nil
		}
	}
	if !s.state(r).open && s.sys.Doomed(d.Holder) {
		return nil // kill PID; rm FILE: that robs nobody, as nobody has the descriptor
	}
	s.log.WithFields(fields(l)).WithFields(logrus.Fields{"caller": caller.String(), "attempt": attempt.what}).
		Warn("refused: the lock is held")
	s.events.publish(Event{Transition: Refused, Lock: l, By: caller, Time: s.now()})
	return fmt.Errorf("%s: %w by %v", c.name, ErrHeld, l.Holder)
}

// Stranger reports whether there is a live exclusive lock of the name and a process is not of its holder's family;
// identify returns the process. Which processes are related may be a moment old.
func (c NameLock) Stranger(identify func() bootid.Process) bool {
	s := c.store
	r := c.record()
	if r == nil || r.Kind() == verdict.KindPIDFile {
		return false
	}
	caller := identify()
	if caller.Known() && caller.Same(*r.Creator) {
		return false
	}
	if c.readNow(r); c.record() != r {
		return false // it turned out to be no lock
	}
	// The holder is the one judged now: an ancestor may not be recorded yet.
	d := s.judge(r)
	if d.Verdict != verdict.Live {
		return false
	}
	return !s.relatedLately(caller, d.Holder) && !s.relatedLately(caller, *r.Creator)
}

// Contend publishes that a Stranger looked the name up; identify returns that process.
func (c NameLock) Contend(identify func() bootid.Process) {
	if s := c.store; s.Followed() {
		if r := c.record(); r != nil {
			s.events.publish(Event{Transition: Contended, Lock: s.state(r).Lock, By: identify(), Time: s.now()})
		}
	}
}

// Guarded reports whether there is a lock of the name whose content only its holder may change.
func (c NameLock) Guarded() bool {
	r := c.record()
	return r != nil && r.Kind() != verdict.KindPIDFile && r.Kind() != verdict.KindFound
}
