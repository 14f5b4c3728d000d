// Package channel serves an open /dev/fuse: it reads requests, passes them to a [Handler], recovers from the handler's
// panics, and writes the answers. It does not know what a request is about: files, locks and control files are the
// handler's.
//
// [New] answers the INIT request, [Server.Serve] answers all others until the mount is gone, and [Notify] sends the
// kernel what it did not ask for.
//
// go-fuse parses all kinds of requests but the most frequent ones (fuse.ProtocolServer, which go-fuse calls
// experimental: read its changes at an upgrade). go-fuse's own server is not used, since it wakes two threads for each
// request, which is half of what a request costs: a lock cycle takes 0.65 of the time here. Its parser allocates a KiB
// for each request, so requests of a lock cycle are parsed in dispatch.go: otherwise a lock cycle leaves 12 KiB of
// garbage, and with a million locks every caller waits for the collector.
package channel
