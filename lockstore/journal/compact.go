package journal

import (
	"bufio"
	"context"
	"io"
	"os"

	"latchfs/lockstore/authority"
)

const (
	// tailUnderLock is about how much compaction copies while appends wait, in bytes.
	tailUnderLock = 64 << 10
	// writebackStep is the number of bytes after which compaction has them written to the disk: all at once would
	// hold up others that use the disk.
	writebackStep = 4 << 20
)

// compactAt is the size below which a journal is never compacted, in bytes. The crash tests lower it.
var compactAt int64 = 1 << 20

// compaction is a new file that is to replace the journal.
type compaction struct {
	journal    *Journal
	old        *os.File // the journal's file when it began
	copied     int64    // how far the new file has old, in bytes
	generation uint64   // the highest that was given out when it began
	file       *os.File
	out        *bufio.Writer // of file
	size       int64         // of file, in bytes
	frame      []byte        // scratch
}

// Compact writes what the source holds to a new file, appends what was journaled since it began, and puts the file
// in the journal's place. Appends wait only for the last piece of that. The source may yield a lock as it is at any
// moment since the beginning: every change since then is replayed after it.
func (j *Journal) Compact(_ context.Context, from authority.Source) error {
	j.compacting.Lock()
	defer j.compacting.Unlock()
	c := &compaction{journal: j}
	from.Begin(c.begin)
	var err error
	if c.file, err = os.OpenFile(j.newPath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
		return err
	}
	c.out = bufio.NewWriter(c.file)
	if err = c.write(from); err == nil {
		err = c.replace()
	}
	if err != nil {
		c.file.Close()
		os.Remove(j.newPath())
		return err
	}
	c.old.Close() // slow: it frees the file's space
	return nil
}

// begin notes where the journal ends now.
func (c *compaction) begin() {
	c.journal.mu.Lock()
	defer c.journal.mu.Unlock()
	c.old, c.copied, c.generation = c.journal.file, c.journal.size, c.journal.generation
}

// write writes what the source holds, and all but the last piece of what was appended meanwhile.
func (c *compaction) write(from authority.Source) error {
	pauseAt("compaction begun")
	if err := c.put(header()); err != nil {
		return err
	}
	if err := c.put(seal(appendGeneration(newFrame(nil), c.generation))); err != nil {
		return err
	}
	for name, file := range from.SettledFiles() {
		c.frame = appendSettle(newFrame(c.frame), name, file)
		if err := c.put(seal(c.frame)); err != nil {
			return err
		}
	}
	if err := from.Records(func(r authority.Record) error {
		c.frame = appendPut(newFrame(c.frame), &r, r.Name)
		return c.put(seal(c.frame))
	}); err != nil {
		return err
	}
	if err := c.copyTail(c.journal.Status().Size); err != nil {
		return err
	}
	// After a crash of the machine, a filesystem may have the new name and not yet the bytes: at least the highest
	// generation must not be lost.
	if err := c.file.Sync(); err != nil {
		return err
	}
	for end := c.journal.Status().Size; end-c.copied > tailUnderLock; end = c.journal.Status().Size {
		if err := c.copyTail(end); err != nil {
			return err
		}
	}
	return nil
}

// put appends bytes to the new file.
func (c *compaction) put(b []byte) error {
	n, err := c.out.Write(b)
	before := c.size
	c.size += int64(n)
	if before/writebackStep != c.size/writebackStep {
		startWriteback(c.file)
	}
	return err
}

// copyTail copies the journal from where the last copy ended.
func (c *compaction) copyTail(to int64) error {
	n, err := io.Copy(c.out, io.NewSectionReader(c.old, c.copied, to-c.copied))
	c.copied, c.size = c.copied+n, c.size+n
	if err == nil && c.copied != to {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = c.out.Flush()
	}
	return err
}

// replace copies the last piece and puts the new file in the journal's place, while appends wait.
func (c *compaction) replace() error {
	j := c.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := c.copyTail(j.size); err != nil {
		return err
	}
	if !j.noReserve {
		if err := reserveSpace(c.file, c.size, j.reserve); err != nil {
			return err
		}
	}
	pauseAt("compaction written")
	if err := os.Rename(j.newPath(), j.path); err != nil {
		return err
	}
	pauseAt("compaction renamed")
	j.file, j.size, j.allocated = c.file, c.size, c.size+j.reserve
	return nil
}
