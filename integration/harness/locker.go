//go:build linux

package harness

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// locker is the main function of a Process. It reads commands from standard input, one on a line, carries each out
// and answers with a line: "ok" or the name of an errno. A word that begins with a quote is a Go string.
func locker() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.SplitN(in.Text(), " ", 3)
		for i, word := range words {
			if text, err := strconv.Unquote(word); err == nil && strings.HasPrefix(word, `"`) {
				words[i] = text
			}
		}
		var err error
		switch words[0] {
		case "take": // take FILE [PAYLOAD]: the default payload is its own pid
			payload := strconv.Itoa(os.Getpid()) + "\n"
			if len(words) == 3 {
				payload = words[2]
			}
			err = Take(words[1], payload)
		case "make": // make FILE: take it and write nothing
			err = Take(words[1], "")
		case "remove":
			err = unix.Unlink(words[1])
		case "look":
			err = unix.Lstat(words[1], &unix.Stat_t{})
		case "truncate":
			err = unix.Truncate(words[1], 0)
		case "write": // open without O_TRUNC and write
			var fd int
			if fd, err = unix.Open(words[1], unix.O_WRONLY, 0); err == nil {
				_, err = unix.Write(fd, []byte(words[2]))
				unix.Close(fd)
			}
		case "overwrite": // open with O_TRUNC
			var fd int
			if fd, err = unix.Open(words[1], unix.O_WRONLY|unix.O_TRUNC, 0); err == nil {
				unix.Close(fd)
			}
		case "break": // break FILE PID:MICROSECONDS: remove the lock if it is stale and take it
			err = breakStale(words[1], words[2])
		case "keep": // keep FILE SOURCE: create it with the content of SOURCE and keep it open
			err = keepOpen(words[1], words[2])
		case "overwriting", "excluding", "replacing": // WAY DIR SOURCE: copy the files of SOURCE into DIR
			err = copyFiles(words[0], words[1], words[2])
		case "enter": // enter DIR: change to it, and make it first if it does not exist
			if err = unix.Mkdir(words[1], 0o777); err == nil || err == unix.EEXIST {
				err = unix.Chdir(words[1])
			}
		case "read":
			var fd int
			if fd, err = unix.Open(words[1], unix.O_RDONLY, 0); err == nil {
				unix.Close(fd)
			}
		case "await": // await WAIT: read that file of .latchfs/wait until it answers
			err = await(words[1])
		case "queue": // queue WAIT FILE: wait for its turn and take FILE
			for {
				if err = await(words[1]); err != nil {
					break
				}
				if err = Take(words[2], strconv.Itoa(os.Getpid())+"\n"); err != unix.EEXIST {
					break
				}
			}
		case "crowd": // crowd WAIT N: start N threads that wait
			err = crowd(words[1], words[2])
		case "open": // open FILE N: open it N times, sync it and keep it open
			n, _ := strconv.Atoi(words[2])
			for i := 0; i < n && err == nil; i++ {
				var fd int
				if fd, err = unix.Open(words[1], unix.O_RDONLY, 0); err == nil {
					err = unix.Fsync(fd)
				}
			}
		case "paths": // paths DIR N: open its entries 0 to N-1 with O_PATH and keep that
			n, _ := strconv.Atoi(words[2])
			for i := 0; i < n && err == nil; i++ {
				_, err = unix.Open(fmt.Sprintf("%s/%d", words[1], i), unix.O_PATH, 0)
			}
		case "hoard": // hoard DIR N: make DIR and take N locks in it
			n, _ := strconv.Atoi(words[2])
			err = unix.Mkdir(words[1], 0o755)
			for i := 0; i < n && err == nil; i++ {
				err = Take(fmt.Sprintf("%s/%d.lock", words[1], i), strconv.Itoa(os.Getpid())+"\n")
			}
		case "cycle": // cycle FILE N: take and remove it N times
			n, _ := strconv.Atoi(words[2])
			for range n {
				if err = cycle(words[1]); err != nil {
					break
				}
			}
		case "claim": // claim DIR: lock it as a latchfs that serves it does
			var fd int
			if fd, err = unix.Open(words[1], unix.O_RDONLY, 0); err == nil {
				err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Start: 1 << 40, Len: 1})
			}
		case "mkdir":
			err = unix.Mkdir(words[1], 0o755)
		case "symlink": // symlink FILE [TEXT]
			err = unix.Symlink(append(words, "somewhere")[2], words[1])
		case "rmdir":
			err = unix.Rmdir(words[1])
		case "link":
			err = unix.Link(words[1], words[2])
		case "chmod":
			err = unix.Chmod(words[1], 0o777)
		case "rename":
			err = unix.Rename(words[1], words[2])
		case "exit":
			return
		case "fail": // fail STATUS: exit with it
			status, _ := strconv.Atoi(words[1])
			os.Exit(status)
		}
		if err != nil {
			fmt.Println(unix.ErrnoName(err.(unix.Errno)))
		} else {
			fmt.Println("ok")
		}
	}
}

// breakStale waits until the holder of a lock is dead, waits for a moment, and then removes and takes the lock, as
// programs do that remove stale locks themselves.
func breakStale(path, argument string) error {
	var pid, delay int
	if _, err := fmt.Sscanf(argument, "%d:%d", &pid, &delay); err != nil {
		return unix.EINVAL
	}
	for unix.Kill(pid, 0) == nil {
	}
	for until := time.Now().Add(time.Duration(delay) * time.Microsecond); time.Now().Before(until); {
	}
	// These programs try to take the lock even if the removal fails.
	_ = unix.Unlink(path)
	return Take(path, strconv.Itoa(os.Getpid())+"\n")
}

// cycle takes a lock and releases it.
func cycle(path string) error {
	if err := Take(path, strconv.Itoa(os.Getpid())+"\n"); err != nil {
		return err
	}
	return unix.Unlink(path)
}

// keepOpen creates a file exclusively, with the content of another one, and keeps it open.
func keepOpen(path, source string) error {
	text, err := os.ReadFile(source)
	if err != nil {
		return unix.EIO
	}
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for len(text) > 0 {
		n, err := unix.Write(fd, text)
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}

// copyFiles copies the files of source to free names in dir, in one of three ways: without O_EXCL ("overwriting"),
// with it ("excluding"), or through a temporary file that is renamed ("replacing").
func copyFiles(way, dir, source string) error {
	entries, err := os.ReadDir(source)
	if err != nil {
		return unix.EIO
	}
	for _, entry := range entries {
		text, err := os.ReadFile(source + "/" + entry.Name())
		if err != nil {
			return unix.EIO
		}
		path, at, flags := dir+"/"+entry.Name(), dir+"/"+entry.Name(), unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC
		switch way {
		case "excluding":
			flags = unix.O_CREAT | unix.O_WRONLY | unix.O_EXCL
		case "replacing":
			at += ".part"
		}
		fd, err := unix.Open(at, flags, 0o644)
		if err != nil {
			return err
		}
		for len(text) > 0 && err == nil {
			var n int
			n, err = unix.Write(fd, text)
			text = text[max(n, 0):]
		}
		unix.Close(fd)
		if err == nil && at != path {
			err = unix.Rename(at, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// await reads a file of .latchfs/wait until it answers, which it does at the reader's turn.
func await(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Read(fd, make([]byte, 200)); err != unix.EINTR {
			return err
		}
	}
}

// crowd starts many threads that wait, and returns at once.
func crowd(path, number string) error {
	n, err := strconv.Atoi(number)
	if err != nil {
		return unix.EINVAL
	}
	debug.SetMaxThreads(n + 1000)
	for range n {
		go await(path)
	}
	return nil
}

// Take creates a lock file exclusively and writes payload to it.
func Take(path, payload string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if payload == "" {
		return nil
	}
	_, err = unix.Write(fd, []byte(payload))
	return err
}

// FailHelper ends a helper process with an error.
func FailHelper(err error) {
	fmt.Fprintln(os.Stderr, os.Getpid(), err)
	os.Exit(3)
}
