//go:build linux

package fs

import (
	"os"
	"reflect"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// keepResident makes sure that the buffers a server reads requests into are in memory. Where a page
// is not, a server that is killed while it reads fails the request: the kernel cannot bring the page in
// for a process that is ending, and answers EIO (fuse_dev_do_read). Go hands out fresh memory without
// touching it. go-fuse has no option for its buffers, so this reaches into its pool; false if it is not
// where it was.
func keepResident(server *fuse.Server) bool {
	pool := bufferPool(server)
	if pool == nil || pool.New == nil {
		return false
	}
	fresh := pool.New
	pool.New = func() any {
		made := fresh()
		if buffer, ok := made.([]byte); ok {
			whole := buffer[:cap(buffer)]
			for i := 0; i < len(whole); i += os.Getpagesize() {
				whole[i] = 0
			}
		}
		return made
	}
	return true
}

// bufferPool is where go-fuse keeps its buffers, nil if that is not known.
func bufferPool(server *fuse.Server) *sync.Pool {
	field := reflect.ValueOf(server).Elem().FieldByName("readPool")
	if !field.IsValid() || field.Type() != reflect.TypeFor[sync.Pool]() {
		return nil
	}
	return (*sync.Pool)(field.Addr().UnsafePointer())
}
