// Package verdict decides who holds a lock, whether that process is alive, and how that is known.
// It consists of pure functions over facts: it opens nothing, asks no process table and no clock.
//
// [Judge] decides on a lock that has a record, from [Facts]; [JudgeFound] on a file that was found
// without one, from [FoundFacts]; [MayHold] says which processes can be holders at all. The result is
// a [Decision]: a [Verdict] with its [Reason], the [Rule] by which the holder was found, the evidence
// in words, and the holder.
//
// # Rules
//
//   - The holder is the process that the payload names, if it runs and is of the family of the
//     process that wrote it; then the maker; then whoever has the descriptor the lock was made
//     with; then, for locks that commands such as mkdir(1) make, the nearest living ancestor.
//   - How the holder ended decides. One that was killed, failed, or was lost in a reboot leaves a
//     stale lock. One that ended with status 0 left the lock on purpose, as the command "tool lock
//     acquire" does: nothing is proven, and age ends it. If it is not known how it ended, the lock
//     is stale, as it is to programs that look at the pid.
//   - What is only weak evidence of a lock, data among it, is a stale lock only after its maker was
//     killed. Otherwise the file settles: it is no lock, and stays.
//   - An ancestor that ends of itself passes the lock on to the next one: a subshell that ran
//     mkdir(1) is not the script.
//   - Age alone makes only an unknown lock stale, and only if no process that may still need it
//     runs.
package verdict
