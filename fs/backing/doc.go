// Package backing is the directory beneath a mount, and what the kernel knows of it.
//
// A [Directory] has a table of inodes and tables of open files and directories, under numbers that are never used
// again. What the kernel was told of them is in rows that outlive the server (package handover), and [Open] takes
// over the rows of a server that has died. [LockFiles] is the directory as the store of the locks uses it. An [Inode]
// has a node id, by which the kernel names it; a [Handle] is what open(2) made.
//
// The package answers no requests and decides nothing about locks: it only knows which names are lock names.
//
// Every access is relative to a descriptor. Each inode has an O_PATH descriptor, or is opened by file handle if there
// are more files than descriptors. A name is one component and is not followed if it is a symbolic link. Paths of
// several components are resolved only by [OpenBeneath], with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS of openat2(2).
// If a system call needs a path, it gets /proc/self/fd/N.
package backing
