// Package lockstore decides who holds a lock file and whether that holder still exists.
//
// It keeps the records of locks in memory, records every transition with an authority, and watches holders end. It
// does not know FUSE: it asks a [Files] what lies at a lock name, and a bootid.System about processes.
//
// A [Store] holds a [Lock] for each held name. A [NameLock] is the critical section of one name: everything about
// the name is decided within it. A [Descriptor] stands for the open file a lock was made with. A [CachedJudgment]
// is what is remembered of a file that is no lock. A [Scanner] judges a directory that is not mounted.
//
// Package payload reads what a text says, and package verdict decides who holds a lock: both are pure functions.
// This package gathers the facts for them: content.go reads the file, family.go finds out which processes a text
// may name, judge.go asks which processes run. Package authority is the interface to the place that records the
// locks; package journal fulfils it for one mount of one host.
//
// # Decisions
//
//   - A lock is a file and a record. To acquire, the record is written first, then the caller makes the file; to
//     release, the file is removed first. A crash in between leaves a record without a file, which is released when it
//     is looked at.
//   - No decision rests on events alone. A look at a name asks the kernel, with one poll(2) of the holder's pidfd,
//     whether the holder still runs, so that a lock is free for the very next system call after the holder's death.
//   - A payload is read only when a decision needs it: a moment after the descriptor a lock was made with was closed,
//     when something in a lock directory was changed, and when the holder has ended. A look at the lock in that moment
//     reads it first, so that no process sees a difference; the creator may remove the lock with its payload pending
//     (pending_payload.go). What cannot be found out later is found out while the caller waits: the ancestors of a
//     command, and the relatives that a text names which does not name its maker (Wrote, Writing).
//   - A file that was seen to be no lock stays none, over restarts and reboots, as long as it is the same
//     file with the same bytes (settled.go).
//   - When a name becomes free, its first waiter is told within the name lock, and the name is reserved for it: no
//     passer-by gets in between, and nobody polls (waiting.go, queue.go). Only where nothing reports that a name is
//     free, as for an unknown lock that grows old, the first waiter looks every second.
//   - No data is destroyed. A file that is neither empty nor names a process ends as an ordinary file; a removed file
//     that is not empty is moved to the state directory.
//   - Data that was made with O_EXCL is stale only if its writer was killed by a signal and was ending when the
//     descriptor was closed. A program that closes a file and ends looks just like one that ends with the file open,
//     as the kernel may send word of the close late. After a reboot, a record of data means that the file was open:
//     therefore its end is synced, in the background.
//   - If an ancestor that holds a lock exits, the lock passes on to the next one: a subshell that ran mkdir(1) is not
//     the script. If it is killed, the lock does not pass on.
//   - A text such as host-123 names a process only if that process is found when the lock is made;
//     otherwise it is data.
//   - Locks share what they have in common, and a record is 112 bytes, as a million locks may be in memory for years
//     (kept in lock.go).
//   - After a restart, nobody waits until all locks were looked at, which takes seconds for a million: Enter looks at
//     the lock of its name first, and Verify looks at the rest in the background.
//   - A process that ended together with its pid namespace was killed.
//
// # Caveats
//
// A store that cannot record a release, because the disk fails, goes on and logs that. A pid that is used again
// within the same clock tick (10 ms) while no latchfs watches cannot be told from the one before.
package lockstore
