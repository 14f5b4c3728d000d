// Package fs serves a directory through FUSE, over itself. Ordinary files pass
// through; what happens at lock names is asked of a lockstore.Store. It knows nothing of journals,
// and decides no verdict.
//
// The words are those of go-fuse: an inode is a file or directory and has a node id by
// which the kernel calls it; a name in a directory is an entry (the kernel's dentry);
// a file handle is what open(2) made, and lives until the last descriptor that
// refers to it is closed.
//
// [FS] is the raw file system that go-fuse serves. It keeps two tables, of inodes
// and of handles, under numbers that are never used again. What of them the kernel was
// told is in memory that outlives the server (tables.go), its descriptors are kept open by
// another process (descriptor keeper.go), and another server takes both over (takeover.go). A [Mount] is
// one mounted FS.
//
// # Decisions
//
//   - Every access is relative to a descriptor: an O_PATH descriptor for each
//     inode (opened by file handle when it is needed, once there are more files than
//     descriptors), and one name without a slash, never followed if it is a symbolic
//     link. Nothing beneath the mount is resolved by a path of more than one
//     component but through openat2(2) with RESOLVE_BENEATH and
//     RESOLVE_NO_SYMLINKS. Where a system call wants a path, it gets
//     /proc/self/fd/N of a descriptor.
//   - The kernel checks permissions (default_permissions, POSIX ACLs). New files are
//     made with the caller's user and group on the thread that makes them, with
//     CAP_DAC_OVERRIDE kept, since the caller's other groups are not known.
//   - Most branches into the locks are in locks.go, lock_acquire.go and lock_protect.go.
//   - The kernel tells of the close of a file that was made with O_EXCL while the caller waits
//     (FLUSH), so that data that was closed is told from data whose maker was killed with it open. At
//     names that were those of locks before it does without: that saves a request (usual_locks.go).
//   - At a lock name an open is one step with the look at what is there, so that no pid file
//     is removed under who is about to open it. A file that was moved away by a reap
//     answers ESTALE, on which the kernel looks the name up again.
//   - The times of a live lock are answered for each caller anew, and never cached: its
//     family sees them as they are, everybody else as the present.
//   - A lock file that is held is never opened with a passthrough descriptor: writes
//     of others must come by to be refused. The kernel wants all opens of an
//     inode to agree (fuse_file_io_open), so the first one decides for as long as
//     any is open.
//   - Descriptors outlive the server by being shared with a process that sleeps, not by being
//     sent to one: a lookup or an open costs no system call more. The tables are memory writes,
//     in an order in which a kill leaves too much counted and never too little.
//   - A request that comes again after a server's death is carried out again. What must
//     not be, is preceded by an intent (intent.go). That the kernel holds the directory
//     or file while a request is unanswered is what tells a dead server's work from anybody
//     else's.
//   - A reap makes the kernel forget the file's attributes, not the entry: that would wait for
//     the directory, which a request that waits for us may hold, and a thread that waits so
//     does not end when the server is killed. Whoever comes by the entry asks for attributes
//     or an open, gets ESTALE, and looks the name up; no call gets it twice (retries.go). Only to
//     the processes that look while somebody has the reaped file open it shows, without links, for
//     the second that an entry is cached.
//   - Requests are read by a loop of our own, which go-fuse's parser and answers are used from: a
//     lock cycle on it takes 0.65 of what it takes on go-fuse's server (device.go). That parser,
//     fuse.ProtocolServer, is called experimental by go-fuse: an upgrade of it is to be read. It allocates a KiB for each
//     request, so those of a lock cycle and the like are taken apart here (dispatch.go): else a lock cycle
//     leaves 12 KiB of garbage, and beside a million locks collecting it is what others wait for.
//   - A handler never waits for another process. A read of .latchfs/wait or events is answered by
//     whoever brings about what it waits for.
//   - Who watches with inotify(7) is told of a reap by another process that unlinks the name in the mount (notifier.go): no
//     FUSE notification raises that event, and a server that calls into its own mount cannot be killed while it waits for
//     itself.
//   - What a control file says of all locks is made while it is read (control_text.go): a million take half a
//     gigabyte.
//   - A handler's panic ends the server, which the next one makes good, and not the mount
//     (guard.go).
//
// # Caveats
//
// Linux only. Changes made beneath the mount, by processes that had the directory open before, show
// after at most a second.
package fs
