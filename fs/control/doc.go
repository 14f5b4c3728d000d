// Package control serves .latchfs, the directory at the root of a mount in which latchfs tells about its locks and takes
// commands. The directory is not listed in the root.
//
// [Dir] carries out the requests for nodes of this directory. Its files are one table (control.go): name, number, mode
// and function. To add a file, add a line to that table and a function that returns the text. The other files of this
// package are about one control file each: ctl.go (commands), events.go (the event stream), wait.go (wait/NAME), poll.go
// (poll(2) on those two) and nodes.go (the entries of lock and wait).
//
// The package also defines the JSON of the control files (info.go) and how names chosen by programs are printed
// (printable.go), which the command needs too. It knows nothing of the filesystem's inodes: it is given functions for
// what it needs ([Options]). Its nodes and polls outlive the server in the tables of package handover.
package control
