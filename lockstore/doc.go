// Package lockstore decides who holds a lock file and whether that holder still exists.
// It keeps the records of locks in memory, as the authority on them, journals every
// transition, and watches holders die. It knows nothing of FUSE: what lies at a lock name it
// asks of a [Files], and of processes a bootid.System.
//
// The types: a [Store] holds a [Lock] for each held name; a [NameLock] is the critical
// name lock of one name, in which everything about it is decided; a [Descriptor] stands for the
// open file a lock was made with; a [CachedJudgment] is what is remembered of a file that is no lock.
// A [Scanner] judges a directory that is not mounted.
//
// What a text says is read by package payload, and who holds a lock is decided by package
// verdict; both are pure functions. This package gathers the facts for them: content.go reads the
// file, family.go finds out which processes a text may name, judge.go asks who runs.
//
// # Decisions
//
//   - A lock is a file plus a record. Acquiring writes the record first, then the caller
//     makes the file; releasing removes the file first. A crash anywhere leaves a record
//     without a file, which is dropped when it is looked at.
//   - Nothing is believed from events alone. A look at a name asks the kernel, with
//     one poll(2) of the holder's pidfd, whether it still runs, so that a lock is free
//     for the very next system call after a holder's death.
//   - A payload is read only when a decision needs it: when the descriptor a lock was made
//     with was closed a moment ago, when something in a lock directory was changed, and when the
//     holder has ended. What cannot be asked later is asked while the caller waits: the ancestors of a
//     command, and whose relatives a text names that does not name its maker (Wrote, Writing). A look at a
//     lock in that moment has it read first, so that no process sees the difference; its creator may
//     remove it pending payload (pending payload.go).
//   - A file that was seen to be no lock stays none, over restarts and reboots, as long as it is the
//     same file with the same bytes (settled.go).
//   - Who waits for a name is told by who frees it, in the name lock in which it becomes free, and has it
//     reserved: nobody who comes by gets in between, and there is nobody who polls (waiting.go).
//     Only where nobody can tell, of an unknown lock that grows old, the first in line looks every second.
//   - No data is destroyed. What is not a payload that names somebody, or empty, ends as an
//     ordinary file; what is removed and not empty is moved to the state directory.
//   - Data that was made with O_EXCL is stale only if its writer was killed by a signal, and
//     was ending when the descriptor was closed: a program that closes a file and
//     ends looks just like one that ends with the file open, as the kernel sends word of
//     the close when it likes. After a reboot a record of data means that it was open, which is
//     why the end of one is synced, in the background.
//   - An ancestor that holds and ends of itself passes the lock on to the next one: a
//     subshell that ran mkdir(1) is not the script. One that is killed does not.
//   - Text such as host-123 names somebody only if that process is found when the lock is
//     made; else it is data.
//   - What locks have in common they share, and a record is 112 bytes: a million locks are memory that is
//     always there (kept in lock.go).
//   - After a restart nobody waits until all locks were looked at, which takes seconds for a million: who enters the name lock of
//     one has it looked at first, and the rest is done in the background (Verify).
//   - What ended together with its pid namespace was killed.
//
// # The journal
//
// It is ours and not a library's, after a measurement of the same work, a put and a
// delete of one lock's record, without any sync (go test -bench Journal -count 7
// ./lockstore, medians of one run, on a 2-core machine and ext4):
//
//	appended with a checksum, as here    4.3 us   1.0
//	tidwall/wal 1.2.1                    9.6 us   2.2
//	bbolt 1.5.0 with NoSync             24.9 us   5.8
//
// A library of either kind would also have to be taught what is asked of this one: space
// for every release is reserved when a lock is acquired, a torn tail is kept aside
// rather than an error, and compaction does not hold up appends. Nothing is synced on the
// path of a caller: what has to survive is the death of latchfs, for which the page cache
// is enough; a death of the machine makes every lock stale by definition.
//
// # Caveats
//
// A store that cannot journal a release, because the disk fails, goes on and says so in the
// log. A pid that is used again within the same clock tick (10 ms) while no latchfs
// watches cannot be told from the one before.
package lockstore
