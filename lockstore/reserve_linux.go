package lockstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// reserveSpace makes sure that size bytes from offset on can be written, without
// changing the length of the file. A size of 0 reserves nothing.
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

// startWriteback begins to write to the disk what was written to file. That it is there says only a sync.
func startWriteback(file *os.File) {
	_ = unix.SyncFileRange(int(file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
