//go:build linux

package fs

// crashPoint is where in an operation a planted crash is to happen.
type crashPoint string

// The points at which a server that dies leaves different things behind.
const (
	crashBefore crashPoint = "before" // the system call
	crashAfter  crashPoint = "after"  // the system call, before its result is written down
	crashReply  crashPoint = "reply"  // all is written down and nothing answered
)
