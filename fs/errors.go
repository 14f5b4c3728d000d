package fs

import "errors"

// ErrNegotiated: the first server of the mount agreed with the kernel on something that this server does not support.
var ErrNegotiated = errors.New("the connection was negotiated by a latchfs that differs from this one")
