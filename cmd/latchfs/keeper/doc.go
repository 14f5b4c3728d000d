// Package keeper is the supervising process of a mount: it starts the server, starts another one when the server dies,
// hands the mount over to a newer version, and ends with the mount.
//
// A Keeper holds what must survive a server: the tables of what the kernel was told, the claim on the directory, and the
// program that servers are started from, whatever happens to its path. It does nothing while a server runs, so that it has
// no reason to die. The two processes talk over a socket pair; Server is the server's end of it.
//
// Under a service manager with a descriptor store (FDSTORE in sd_notify(3)) the mount outlives the keeper, too.
//
// The package knows neither flags nor exit codes: both are given to it. It does not know locks or requests.
package keeper
