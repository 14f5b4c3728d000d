package lockstore

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"latchfs/lockstore/authority"
	"latchfs/lockstore/verdict"
)

const (
	reclaimedName = "reclaimed"
	// maxReclaimed files and maxReclaimedBytes are kept at most, and never more bytes than the filesystem has free.
	maxReclaimed      = 1000
	maxReclaimedBytes = 1 << 30
	// maxCopied is the size in bytes of a file that is kept by copying it.
	maxCopied = 64 << 20
	// maxKeptName is how much of an escaped name is kept, in bytes. A file name has at most 255.
	maxKeptName = 180
	// reclaimedTime is the layout of the time in a file name.
	reclaimedTime = "20060102T150405.000Z"
)

// errTooLarge: a file cannot be kept, so it is not removed.
var errTooLarge = errors.New("too large to be kept")

// Reclaimed is a lock file that was removed and is kept in the state directory.
type Reclaimed struct {
	// File is its path now.
	File       string
	Generation uint64
	Time       time.Time      // when it was removed
	Reason     verdict.Reason // empty if it was released
	// Name is its path in the mount, or the end of a long one.
	Name string
	// Whole reports that Name is the whole path.
	Whole bool
	Size  int64 // bytes
	UID   uint32
}

// reclaimed has the files in the directory of reclaimed files. What is known of each is in its name.
type reclaimed struct {
	dir string

	mu    sync.Mutex  // guards the fields below
	files []Reclaimed // oldest first
	bytes int64
}

func openReclaimed(stateDir string) (*reclaimed, error) {
	r := &reclaimed{dir: filepath.Join(stateDir, reclaimedName)}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if file, ok := parseReclaimed(entry.Name()); ok {
			file.File = filepath.Join(r.dir, entry.Name())
			file.Size, file.UID = sizeOf(file.File), ownerOf(file.File)
			r.files = append(r.files, file)
			r.bytes += file.Size
		}
	}
	slices.SortFunc(r.files, func(a, b Reclaimed) int { return cmp.Compare(a.Generation, b.Generation) })
	return r, nil
}

// fileName returns the name under which r is kept: generation, time, reason and name.
func (r Reclaimed) fileName() string {
	escaped := url.PathEscape(r.Name)
	if len(escaped) > maxKeptName {
		escaped = escaped[len(escaped)-maxKeptName:]
		// Do not begin in the middle of an escape.
		if i := strings.IndexByte(escaped, '%'); i >= 0 {
			escaped = escaped[i:]
		}
	}
	return fmt.Sprintf("%020d,%s,%s,%s", r.Generation, r.Time.UTC().Format(reclaimedTime), r.Reason, escaped)
}

func parseReclaimed(name string) (r Reclaimed, ok bool) {
	parts := strings.SplitN(name, ",", 4)
	if len(parts) != 4 {
		return r, false
	}
	var errs [3]error
	r.Generation, errs[0] = strconv.ParseUint(parts[0], 10, 64)
	r.Time, errs[1] = time.Parse(reclaimedTime, parts[1])
	r.Name, errs[2] = url.PathUnescape(parts[3])
	r.Reason = verdict.Reason(parts[2])
	r.Whole = len(parts[3]) < maxKeptName && !strings.HasPrefix(parts[3], "%")
	return r, errors.Join(errs[:]...) == nil
}

// sizeOf returns the size of a file in bytes, or of the files in a directory together.
func sizeOf(path string) (size int64) {
	// A file that cannot be read counts as empty.
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			size += info.Size()
		}
		return nil
	})
	return size
}

// ownerOf returns the user a file belongs to, root if that cannot be found out.
func ownerOf(path string) uint32 {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0
	}
	return st.Uid
}

// take moves the file at name to the directory: in one step, or by a copy if the state directory is on another
// filesystem. It removes nothing before it is kept.
func (r *reclaimed) take(files Files, name string, file File, as Reclaimed) error {
	as.File = filepath.Join(r.dir, as.fileName())
	if files.Move(name, as.File) != nil {
		if file.Size > maxCopied || !r.makeRoom(file.Size) {
			return errTooLarge
		}
		if err := copyTo(files, name, file, as.File); err != nil {
			// Half a copy would be taken for a whole one.
			_ = os.RemoveAll(as.File)
			return authority.NoSpace(err)
		}
		// The owner counts when room is made. If it cannot be set, the file is root's.
		_ = os.Lchown(as.File, int(file.UID), -1)
		if err := files.Remove(name); err != nil {
			_ = os.RemoveAll(as.File)
			return err
		}
	}
	as.Size, as.UID, as.Whole = file.Size, file.UID, true
	if file.Type == Directory {
		as.Size = sizeOf(as.File)
	}
	return r.add(as)
}

// add lists a file, and discards others if all together are too much.
func (r *reclaimed) add(file Reclaimed) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = append(r.files, file)
	r.bytes += file.Size
	for len(r.files) > 1 && r.full(0) {
		if err := r.discard(); err != nil {
			return err
		}
	}
	return nil
}

// note lists a file of size bytes that is too large to be kept: it stays where it is.
func (r *reclaimed) note(as Reclaimed, size int64) error {
	text := fmt.Sprintf("%s holds %d bytes, more than can be kept: it is still there, as an ordinary file\n",
		as.Name, size)
	as.File, as.Size = filepath.Join(r.dir, as.fileName()), int64(len(text))
	if err := os.WriteFile(as.File, []byte(text), 0o600); err != nil {
		return err
	}
	return r.add(as)
}

// full reports whether what is kept and a copy of more bytes would be too much; mu is held.
func (r *reclaimed) full(more int64) bool {
	return len(r.files) > maxReclaimed || r.bytes+more > min(maxReclaimedBytes, r.free()-more)
}

// free returns how many bytes the filesystem has free.
func (r *reclaimed) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(r.dir, &st); err != nil {
		return maxReclaimedBytes
	}
	return int64(st.Bavail) * int64(st.Bsize)
}

// makeRoom discards files until size bytes can be kept, and reports whether they can be.
func (r *reclaimed) makeRoom(size int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if 2*size > r.bytes+r.free() {
		return false // not even if all were discarded
	}
	for r.full(size) {
		if len(r.files) == 0 || r.discard() != nil {
			return false
		}
	}
	return true
}

// giveWay discards a file to make room for the journal, and reports whether there was one.
func (r *reclaimed) giveWay() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.files) > 0 && r.discard() == nil
}

// discard removes the file that makes room; mu is held.
func (r *reclaimed) discard() error {
	i := r.victim()
	if err := os.RemoveAll(r.files[i].File); err != nil {
		return err
	}
	r.bytes -= r.files[i].Size
	r.files = slices.Delete(r.files, i, i+1)
	return nil
}

// victim returns the index of the file that makes room: the oldest file of the user that has the most files, or
// whose files take the most bytes. So no user can push out what is kept of others.
func (r *reclaimed) victim() int {
	type share struct {
		of     int64
		oldest int
	}
	shares := make(map[uint32]*share)
	var most *share
	for i, file := range r.files {
		s := shares[file.UID]
		if s == nil {
			s = &share{oldest: i}
			shares[file.UID] = s
		}
		if len(r.files) > maxReclaimed {
			s.of++
		} else {
			s.of += file.Size
		}
		if most == nil || s.of > most.of {
			most = s
		}
	}
	return most.oldest
}

// copyTo copies a file, a symbolic link, or a directory with the files directly in it.
func copyTo(files Files, name string, file File, to string) error {
	switch file.Type {
	case Symlink:
		text, err := files.Readlink(name)
		if err != nil {
			return err
		}
		return os.Symlink(text, to)
	case Directory:
		entries, err := files.Entries(name, math.MaxInt32)
		if err != nil {
			return err
		}
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		for _, entry := range entries {
			if err := copyFile(files, name+"/"+entry, filepath.Join(to, entry)); err != nil {
				return err
			}
		}
		return nil
	}
	return copyFile(files, name, to)
}

func copyFile(files Files, name, to string) error {
	in, err := files.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func (r *reclaimed) list() []Reclaimed {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.files)
}
