//go:build linux && crashtest

package fs

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// crashFile is a file with an operation and a point, "mkdir after": the server kills itself there
// and takes the file away before, or panics if "panic" follows.
var crashFile = os.Getenv("LATCHFS_CRASH_FILE")

var operationNames = map[operation]string{
	opCreate: "create", opMkdir: "mkdir", opMknod: "mknod", opSymlink: "symlink", opLink: "link", opUnlink: "unlink",
	opRmdir: "rmdir", opRename: "rename", opTruncate: "truncate", opWrite: "write",
	opSetXattr: "setxattr", opRemoveXattr: "removexattr", opControl: "control", opLookup: "lookup", opOpen: "open",
	opOpenDir: "opendir", opReadDirPlus: "readdirplus", opTmpfile: "tmpfile", opRelease: "release",
}

func crashAt(op operation, point crashPoint) {
	text, err := os.ReadFile(crashFile)
	place, panics := strings.CutSuffix(string(text), " panic")
	if err != nil || place != fmt.Sprintf("%s %s", operationNames[op], point) {
		return
	}
	if panics { // each time, as a defect would
		panic("planted: " + place)
	}
	os.Remove(crashFile)
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}
