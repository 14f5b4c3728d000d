// Package harness is what the integration tests have in common. It mounts latchfs over real directories and runs
// real programs in the mount.
//
// A Mount is a directory over which latchfs is mounted. A test touches its locks through other processes, because
// the test itself is the parent, and so of the family, of everything that it starts:
//
//   - a Process is the test binary again; it makes single system calls for the test
//   - a Script is a bash script in the mount, which holds a lock
//   - a Container is a script in namespaces of its own
//   - a BootNamespace is a script that runs latchfs itself, with a boot id of the test's choice
//   - a VM is a virtual machine, which can be reset and cut from its power
//
// A test looks like this:
//
//	m := harness.MountOver(t, t.TempDir())
//	holder, contender := harness.StartProcess(t), harness.StartProcess(t)
//	holder.Must("ok", "take", m.Path("x.lock"))
//	contender.Must("EEXIST", "take", m.Path("x.lock"))
//	holder.Kill()
//	contender.Must("ok", "take", m.Path("x.lock"))
//
// Everything that a function of this package starts or mounts ends with the test. The tests need root and
// /dev/fuse. Where something is missing, they are skipped with the reason; with CI set they fail instead.
package harness
