// Package handover keeps what outlives a server of a mount, so that the next server goes on where a killed one stopped.
//
// [Tables] are tables of rows in shared memory: what the kernel was told of inodes, open files and lookups. The
// descriptors that the rows name are kept open by the descriptor keeper, a process that shares the server's table of
// descriptors and sleeps. An [Intent] records a request that must not be carried out twice. [Watches] are the pidfds of
// watched processes.
//
// The package knows the layout of the rows, and which of their fields are descriptors. It neither opens files nor
// reads requests: package fs gives the rows their meaning.
//
// # Why a kill cannot corrupt the tables
//
// The memory (memfd_create(2)) belongs to another process too, and has to be consistent at every instruction at which
// the server may be killed:
//
//   - A row counts from the moment its id is stored, which is done last. It is free from the moment its id is 0, which
//     is done first.
//   - A descriptor is recorded after it was opened, and struck out before it is closed.
//   - A lookup is counted before the kernel hears of it. If a dead server counted a lookup for a request that it did
//     not answer, the lookup is taken back when the request comes again.
//   - Data longer than a word is written into a row that is not in use yet.
//
// So a kill can leave a lookup or a row too many, but never one too few.
//
// # Columns
//
// Each descriptor has two numbers, one for the active server and one for the server that is taking over. The new
// server fills its own column and then makes it the active one with a single store. If it dies before that, the next
// one begins again.
package handover
