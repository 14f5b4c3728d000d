// Package bootid answers questions about boots and processes from what the kernel reports: which
// boot of which machine is this, which process is that, which are its relatives, has it
// ended and how. It knows nothing of locks or FUSE.
//
// A [Boot] is a boot id, a machine id and a boot time; each may be unknown (its
// zero value), and what is unknown never counts as a mismatch. A [Process] is
// one process of one boot: a pid alone is used again, a pid with a start time
// under one boot id is not. [System] is what the rest of latchfs asks for; [Host]
// is the one that asks the running kernel, and tests of the packages above
// bring a made-up one.
//
// # Decisions
//
//   - A boot id is read once, when a Host is made. If it changes under a running
//     Host (a restored VM snapshot), processes it watches are still those
//     processes, and their pidfds go on saying so.
//   - Death is a readable pidfd and nothing else where pidfds exist (Linux 5.3).
//     kill(pid, 0) finds zombies alive, and state Z is also shown by a
//     process whose first thread has exited while the others run on.
//   - How a process ended is asked of the zombie first, then of the pidfd (Linux 6.15), then of the kernel's process
//     events, which take CAP_NET_ADMIN in the first namespaces of the machine. The kernel sends those while a process is
//     watched, for all processes, and a filter in the kernel drops all but exits. Where events are lost
//     the exits of that time are unknown.
//   - The cache from thread id to process holds an open /proc/TID/comm for each
//     entry. The kernel binds that descriptor to the thread and not to its
//     number (struct pid, fs/proc/inode.c): reading it fails with ESRCH once that
//     thread is gone, so an entry cannot answer for a thread that got the number
//     later. A hit costs one pread.
//   - Ancestors end with the first process of a container, and before process 1, at a list of session and service
//     managers, and at a process that has taken an orphan of the chain in: one in a
//     session that is neither its parent's nor its own. The kernel shows nobody who
//     is a subreaper (PR_SET_CHILD_SUBREAPER), so one that has taken in nobody yet, and
//     is none of the list, passes for an ancestor.
//   - The kernel gives no process the number of a process group or session that exists. A process
//     with that number that started after a member is proof that the group it was in is gone.
//   - What /proc does not show (hidepid, a /proc of another pid namespace) is ErrHidden,
//     never ErrNoProcess: kill(2) with signal 0 tells the two apart.
//   - In any pid namespace but the first one there are processes out of sight, so there
//     the lack of a process of some number proves nothing about who wrote that number.
//
// # Caveats
//
// Process identity exists on Linux only; boot identity on Linux, macOS and
// FreeBSD. Start times are in the clock ticks and the time namespace of the
// reader, and pid-namespace inode numbers are used again by the kernel: compare
// only values that the same Host read.
package bootid
