// Package control serves .latchfs, the directory at the root of a mount in which latchfs tells about its locks and takes
// commands. The directory is not listed in the root.
//
// [Dir] carries out the requests for nodes of this directory. Its files are one table (control.go): name, number, mode
// and function. To add a file, add a line to that table and a function that returns the text. The other files of this
// package are about one control file each: ctl.go (commands), events.go (the event stream), wait.go (wait/NAME), poll.go
// (poll(2) on those two) and nodes.go (the entries of lock and wait).
//
// The package also defines the JSON of the control files (info.go) and how names chosen by programs are printed
// (printable.go), which the command needs too. It knows neither the filesystem's inodes nor the tables that outlive a
// server; it is given functions and a small interface for them ([Options]).
package control
