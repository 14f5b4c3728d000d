// Package integration mounts the real thing over real directories and runs real
// programs in it. It needs root and /dev/fuse: with CI set their lack is a
// failure, elsewhere the tests are skipped and say so.
package harness
