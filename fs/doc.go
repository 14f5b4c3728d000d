// Package fs serves a directory through FUSE, mounted over itself. Ordinary files pass through. At lock names it asks a
// lockstore.Store, which decides every verdict.
//
// The words are those of go-fuse: an inode is a file or directory and has a node id by which the kernel names it; a name
// in a directory is an entry (the kernel's dentry); a file handle is what open(2) made, and lives until the last
// descriptor that refers to it is closed.
//
// An [FS] answers the requests. It is made of a backing.Directory, which is opened first, and of the store of the locks,
// which is opened on the directory's files. A [Mount] is one mounted FS. The packages beneath:
//
//   - access: what a caller may see and change in the directory.
//   - backing: the directory, its inodes and its open files.
//   - channel: the loop that reads requests from /dev/fuse, and the notifications to the kernel.
//   - control: the files of .latchfs.
//   - handover: the tables, descriptors and intents that outlive a server.
//   - inotify: how watchers are told of removed locks.
//   - lockname: which names are lock names.
//   - mountpoint: how mounts are made and taken away.
//
// The code that differs at a lock name is mostly in locks.go, lock_acquire.go and lock_protect.go. The attributes of
// locks (xattr_lock.go), tombstones.go and package control ask the store too.
//
// # Decisions
//
//   - The kernel checks permissions (default_permissions, POSIX ACLs). New files are made with the caller's user and
//     group on the thread that makes them. CAP_DAC_OVERRIDE is kept, because the caller's other groups are not known.
//   - The kernel announces the close of a file that was made with O_EXCL while the caller waits (FLUSH). So a file that
//     was closed is distinguished from one whose maker was killed with it open. At names whose last file was a lock
//     there is no FLUSH, which saves a request (usual_locks.go).
//   - At a lock name the judgment and the open are one step, so that no pid file is removed while a process opens it. A
//     file that was reaped answers ESTALE, and the kernel looks the name up again.
//   - The times of a live lock are answered for each caller anew, and never cached: its family sees them as they are,
//     all others see the present.
//   - A lock file that is held is never opened with a passthrough descriptor: writes of others have to reach latchfs to
//     be refused. The kernel wants all opens of an inode to agree (fuse_file_io_open), so the first one decides for as
//     long as any is open.
//   - Descriptors outlive the server because a sleeping process shares them. They are not sent to it, so a lookup or an
//     open costs no additional system call. The tables are memory writes, in an order in which a kill leaves too much
//     counted and never too little.
//   - A request that comes again after a server's death is carried out again. A request for which that would be wrong is
//     preceded by an intent (intent.go). While a request is unanswered, the kernel holds its directory or file, so the
//     work of the dead server is distinguished from that of other processes.
//   - A reap makes the kernel forget the file's attributes, not the entry. To forget the entry would wait for the
//     directory, which a request that waits for latchfs may hold, and a thread that waits like this does not end when
//     the server is killed. A process that uses the entry asks for attributes or an open, gets ESTALE, and looks the
//     name up. No call gets ESTALE twice (retries.go). If the reaped file is open, other processes see it without links
//     for the second that an entry is cached.
//   - A handler never waits for another process. A read of .latchfs/wait or events is answered by the event that it
//     waits for.
//   - A process that watches with inotify(7) learns of a reap because another process unlinks the name in the mount: no
//     FUSE notification raises that event, and a server that calls into its own mount cannot be killed while it waits
//     for itself.
//   - A panic of a handler ends the server and not the mount: the next server answers the request
//     (requests.go).
//
// # Caveats
//
// Linux only. Changes beneath the mount, by processes that had the directory open before, show after at most a second.
package fs
