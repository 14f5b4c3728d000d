// Package bootid answers questions about boots and processes from the reports of the kernel: the boot and
// the machine, the identity and the relatives of a process, and whether and how a process
// has ended. It knows nothing of locks or FUSE.
//
// A [Boot] is a boot id, a machine id and a boot time. Each may be unknown (its
// zero value), and an unknown value never counts as a mismatch. A [Process] is
// one process of one boot. The kernel reuses a pid; a pid with a start time
// under one boot id is unique. [System] is the interface that the rest of latchfs uses. [Host]
// implements it for the running kernel. Tests of the packages above have a fake implementation.
//
// # Decisions
//
//   - NewHost reads the boot id once. If it changes under a running
//     Host (a restored VM snapshot), the watched processes are still the same
//     processes, and their pidfds stay valid.
//   - Where pidfds exist (Linux 5.3), only a readable pidfd proves the end of a process.
//     kill(pid, 0) succeeds for zombies, and a process is also in state Z
//     if its first thread has exited while its other threads run.
//   - The exit status comes from the zombie, else from the pidfd (Linux 6.15), else from the process events of the
//     kernel. The events need CAP_NET_ADMIN in the initial namespaces of the machine. While a process is
//     watched, the kernel generates events for all processes, and a filter in the kernel drops nearly all but exits.
//     If events are lost, the exit statuses of that time are unknown.
//   - Each entry of the cache from thread id to process holds an open /proc/TID/comm.
//     The kernel binds that descriptor to the thread and not to its
//     number (struct pid, fs/proc/inode.c): a read fails with ESRCH after the
//     thread has ended, so an entry is never valid for a later thread with the same
//     number. A hit costs one pread.
//   - The chain of ancestors ends with the first process of a container. It ends before process 1, before a
//     session or service manager that is known by its command, and before a process that has adopted an orphan of
//     the chain: the session of the orphan is neither its parent's nor its own. The kernel does not show which
//     process is a subreaper (PR_SET_CHILD_SUBREAPER), so an unknown subreaper that has adopted
//     no process counts as an ancestor.
//   - The kernel never gives a new process the id of an existing process group or session. If a process
//     with that id started after a member, the group of the member provably no longer exists.
//   - A process that /proc does not show (hidepid, a /proc of another pid namespace) yields ErrHidden,
//     never ErrNoProcess. kill(2) with signal 0 tells the two cases apart.
//   - Outside the initial pid namespace, some processes are invisible. There,
//     the absence of a pid does not prove that the writer of the pid has ended.
//
// # Caveats
//
// Process identity exists on Linux only; boot identity on Linux, macOS and
// FreeBSD. Start times are in clock ticks in the time namespace of the
// reader, and the kernel reuses the inode numbers of pid namespaces. Compare
// only values that the same Host read.
package bootid
