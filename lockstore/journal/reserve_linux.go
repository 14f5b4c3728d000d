package journal

import (
	"os"

	"golang.org/x/sys/unix"
)

// reserveSpace reserves size bytes of a file from offset on, without changing its length. A size of 0 reserves
// nothing.
func reserveSpace(file *os.File, offset, size int64) error {
	if size == 0 {
		return nil
	}
	for {
		err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_KEEP_SIZE, offset, size)
		if err != unix.EINTR {
			return err
		}
	}
}

// startWriteback begins to write the dirty pages of a file to the disk. Only a sync makes sure that they arrive.
func startWriteback(file *os.File) {
	_ = unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
