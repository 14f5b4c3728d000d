package lockstore

import (
	"time"

	"latchfs/bootid"
	"latchfs/lockstore/payload"
	"latchfs/lockstore/verdict"
)

// Scanner judges the lock files of a directory for which there are no records.
type Scanner struct{ store Store }

// NewScanner returns a Scanner for a directory. An empty lock file that is older than staleAfter and that no
// process has open is stale; a staleAfter of 0 is never. Attributes is as in Options.
func NewScanner(
	sys bootid.System, files Files, staleAfter time.Duration, attributes func(name string) Attributes,
) *Scanner {
	return &Scanner{Store{
		sys: sys, boot: sys.Boot(), files: files, staleAfter: staleAfter, attributes: attributes, now: time.Now,
		lookups: newLookups(),
	}}
}

// Scanned is a file at a lock name and what is known of it. Its verdict is Settled if it is no lock.
type Scanned struct {
	verdict.Judgment
	File   File
	Class  payload.Class
	Holder bootid.Process
}

// Judge decides on the file at name, or returns an error of Files.
func (s *Scanner) Judge(name string) (Scanned, error) {
	c, err := s.store.inspect(name, s.store.nobodys())
	if err != nil {
		return Scanned{}, err
	}
	facts := s.store.foundFacts(name, c)
	d := verdict.JudgeFound(facts)
	if c.form.Class == payload.Empty && s.store.files.Local() {
		d = verdict.JudgeEmpty(facts)
	}
	if d.Verdict == verdict.Stale && c.Type == Regular && s.store.files.Opened(name) {
		d.Judgment = verdict.Judgment{
			Verdict: verdict.Unknown, Rule: d.Rule, Evidence: d.Evidence + "; but a process has it open",
		}
	}
	return Scanned{d.Judgment, c.File, c.form.Class, d.Holder}, nil
}

// Remove removes the file at name if it is still stale.
func (s *Scanner) Remove(name string) (removed bool, err error) {
	found, err := s.Judge(name)
	if err != nil || found.Verdict != verdict.Stale {
		return false, err
	}
	return true, s.store.files.Remove(name)
}
