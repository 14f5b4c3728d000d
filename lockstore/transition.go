package lockstore

import (
	"latchfs/bootid"
	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

// left records that the holder of r has ended with status 0.
func (s *Store) left(r *record) {
	s.mu.Lock()
	known := r.left || r.gone
	s.mu.Unlock()
	if known {
		return
	}
	s.changes.RLock()
	s.change(r, "how the holder of a lock ended", func() { r.left = true })
	s.changes.RUnlock()
	s.log.WithFields(fields(s.state(r).Lock)).WithField("reason", verdict.Left).
		Info("the holder of a lock has ended with status 0 and not removed it")
}

// change changes what is recorded of r, unless it is gone; what names the change in the log. Changes is held: for
// reading within the name lock of r, or else for writing, as two changes of one record must not overtake each
// other.
func (s *Store) change(r *record, what string, change func()) {
	s.mu.Lock()
	if r.gone {
		s.mu.Unlock()
		return
	}
	change()
	l, stored := r.lock(s.began), r.stored(s.began)
	s.mu.Unlock()
	s.notChanged(s.authority.Update(s.ctx, stored), what, l)
}

// notChanged logs an error of the authority about a lock that has changed.
func (s *Store) notChanged(err error, what string, l Lock) {
	if err != nil {
		s.log.WithError(err).WithFields(fields(l)).Error(what + " could not be journaled")
	}
}

// pass makes holder the holder of r by a rule, if it is not already. It is called within the name lock.
func (s *Store) pass(r *record, holder bootid.Process, rule verdict.Rule) {
	s.mu.Lock()
	before, shared := r.holder, r.Holder
	passed := holder.Known() && !holder.Same(*shared)
	unchanged := r.gone || !passed && r.Rule() == rule
	s.mu.Unlock()
	if unchanged {
		return
	}
	after := before
	if passed {
		after, shared = s.processes.attachShared(&holder, r)
	}
	s.changes.RLock()
	s.mu.Lock()
	r.Holder, r.rule, r.holder, r.left = shared, numberOf(verdict.Rules[:], rule), after, r.left && !passed
	l, stored := r.lock(s.began), r.stored(s.began)
	if passed {
		s.events.publish(Event{Transition: Passed, Lock: l, Time: s.now()})
	}
	s.mu.Unlock()
	if passed || rule == verdict.RuleNamed {
		s.notChanged(s.authority.Update(s.ctx, stored), "the new holder of a lock", l)
	}
	s.changes.RUnlock()
	if before != after && before != r.creator && !r.hasAncestor(before) {
		s.processes.detach(before, r)
	}
	if passed {
		s.log.WithFields(fields(l)).WithField("rule", rule).Debug("a lock has another holder")
	}
}

// release ends the lock r, whose holder has removed or replaced its file.
func (s *Store) release(r *record) { s.end(r, Released, verdict.Judgment{}) }

// end ends the lock r by a transition: Released, Reaped or Settled. If the authority cannot record that, the lock
// ends nevertheless: its file is gone or is no lock, and would be found so after a restart. A stale file that never
// had a record ends too, as one that is gone already. End is called within the name lock.
func (s *Store) end(r *record, by Transition, j verdict.Judgment) {
	s.changes.RLock()
	stored, held := s.takeOut(r, by, j)
	if held {
		if err := s.authority.Release(s.ctx, stored); err != nil {
			s.log.WithError(err).WithField("path", stored.Name).Error("the end of a lock could not be journaled")
		}
	}
	s.changes.RUnlock()
	s.detach(r)
	if held && by == Settled && r.Kind() == verdict.KindCreate {
		s.syncSoon(&s.settledSync, settledDelay)
	}
	s.compactIfDue()
}

// takeOut takes r out of the map, publishes its end, and reports whether the map had it.
func (s *Store) takeOut(r *record, by Transition, j verdict.Judgment) (stored authority.Record, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored = r.stored(s.began)
	if held = !r.gone; held {
		delete(s.locks, r.Name)
		s.uncount(r.Creator.UID)
		r.gone = true
	}
	l, now := r.lock(s.began), s.now()
	if by == Reaped {
		if len(s.recent) == maxRecent {
			s.recent = s.recent[1:]
		}
		s.recent = append(s.recent, Reaping{l, j, now})
	}
	if held || by == Reaped {
		s.events.publish(Event{Transition: by, Lock: l, Reason: j.Reason, Time: now})
	}
	return stored, held
}

// uncount subtracts one from the locks that a user has made; mu is held.
func (s *Store) uncount(user uint32) {
	if s.byUser[user]--; s.byUser[user] == 0 {
		delete(s.byUser, user)
	}
}

// changedElsewhere takes over what another host did to the lock of a name. The authority has recorded it.
func (s *Store) changedElsewhere(c authority.Change) {
	nameLock := s.Enter(c.Name)
	defer nameLock.Leave()
	s.changes.RLock()
	defer s.changes.RUnlock()
	before := nameLock.record()
	if before != nil && before.Generation > c.Generation {
		return // it is about an earlier lock
	}
	if before != nil {
		s.takeOut(before, Released, verdict.Judgment{})
		s.detach(before)
	}
	if c.Released {
		nameLock.freed()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byUser[c.Creator.UID]++
	s.put(&record{kept: keep(c.Record, s.began)})
}

// put puts a new lock into the map; mu is held and byUser counts it already.
func (s *Store) put(r *record) {
	s.locks[r.Name] = r
	s.events.publish(Event{Transition: Acquired, Lock: r.lock(s.began), Time: s.now()})
}
