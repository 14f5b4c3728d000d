// Package verdict decides who holds a lock, whether that process is alive, and how that is known.
// It consists of pure functions over facts: it opens nothing, asks no process table and no clock.
//
// [Judge] decides on a lock that has a record, from [Facts]; [JudgeFound] on a file that was found
// without one, from [FoundFacts]; [MayHold] reports which processes can be holders at all. The result is
// a [Decision]: a [Verdict] with its [Reason], the [Rule] by which the holder was found, the evidence
// in words, and the holder.
//
// # Rules
//
//   - The holder is the process that the payload names, if it runs and is of the family of the
//     process that wrote it; then the maker; then a process that has the descriptor the lock was
//     made with; then, for locks that commands such as mkdir(1) make, the nearest living ancestor.
//   - How the holder ended decides. If it was killed, failed, or was lost in a reboot, the lock is
//     stale. If it ended with status 0, it left the lock on purpose, as the command "tool lock
//     acquire" does: nothing is proven, and age ends the lock. If it is not known how it ended, the
//     lock is stale, as it is for programs that look at the pid.
//   - A file with only weak evidence of a lock, such as data, is a stale lock only after its maker
//     was killed. Otherwise the file is settled: it is no lock, and stays.
//   - If an ancestor exits, the lock passes on to the next one: a subshell that ran mkdir(1) is not
//     the script.
//   - Age alone makes only an unknown lock stale, and only if no process that may still need it
//     runs.
package verdict
