package lockstore

import (
	"time"

	"latchfs/bootid"
)

// Scanner judges the lock files of a directory for which there are no records.
type Scanner struct{ store Store }

// NewScanner returns one for a directory. An empty lock file that is older than staleAfter
// and that nobody has open is stale; a staleAfter of 0 is never. Attributes is as in Options.
func NewScanner(sys bootid.System, files Files, staleAfter time.Duration, attributes func(name string) Attributes) *Scanner {
	return &Scanner{Store{
		sys: sys, boot: sys.Boot(), files: files, staleAfter: staleAfter, attributes: attributes, now: time.Now, lookups: newLookups(),
	}}
}

// Scanned is a lock file and what is known of it. Its verdict is Settled if it is none of
// latchfs's business.
type Scanned struct {
	Judgment
	File   File
	Class  Class
	Holder bootid.Process
}

// Judge decides on the file at name, or returns an error of Files.
func (s *Scanner) Judge(name string) (Scanned, error) {
	c, err := s.store.inspect(name)
	if err != nil {
		return Scanned{}, err
	}
	d := s.store.judgeFound(c)
	if c.Class == Empty && s.store.files.Local() {
		d.Judgment = s.store.aged(c.Changed, RuleNobody, "it is empty")
		if d.Verdict == Stale {
			d.Reason = MissingPID
		}
	}
	if d.Verdict == Stale && c.Type == Regular && s.store.files.Opened(name) {
		d.Judgment = unknown(d.Rule, "%s; but somebody has it open", d.Evidence)
	}
	return Scanned{d.Judgment, c.File, c.Class, d.holder}, nil
}

// Remove removes the file at name if it is still stale.
func (s *Scanner) Remove(name string) (removed bool, err error) {
	found, err := s.Judge(name)
	if err != nil || found.Verdict != Stale {
		return false, err
	}
	return true, s.store.files.Remove(name)
}
