// Package keeper is the supervising process of a mount. It starts the server, replaces a server that dies,
// hands the mount over to a newer version, and ends with the mount.
//
// A Keeper holds the state that must survive a server: the tables of what the kernel knows of the mount, the claim on
// the backing directory, and the open program file that servers start from, even if its path changes. It is idle while
// a server runs, so it has little reason to fail. Keeper and server talk over a socket pair. Server is the server's end
// of the connection.
//
// Under a service manager with a descriptor store (FDSTORE in sd_notify(3)), the mount also outlives the keeper.
//
// The package knows no flags, locks or requests. The caller passes the command line and the exit codes in.
package keeper
