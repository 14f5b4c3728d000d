package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// isTerminal reports whether out is a terminal.
func isTerminal(out io.Writer) bool {
	file, is := out.(*os.File)
	return is && term.IsTerminal(int(file.Fd()))
}

// style is the format of the output. The zero value is for output that is not a terminal.
type style struct {
	width  int // columns; 0 means no limit
	colour bool
}

// styleOf returns the style for an output. NO_COLOR (no-color.org) and TERM=dumb turn colours off.
func styleOf(out io.Writer) style {
	if !isTerminal(out) {
		return style{}
	}
	width, _, err := term.GetSize(int(out.(*os.File).Fd()))
	if err != nil {
		width = 0
	}
	return style{width, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// The escape sequences of verdict colours. All have the same length, so that columns stay aligned.
const (
	colourNone   = "\x1b[00m"
	colourRed    = "\x1b[31m"
	colourGreen  = "\x1b[32m"
	colourYellow = "\x1b[33m"
)

// in returns text in a colour, or unchanged if the style has no colours.
func (s style) in(colour, text string) string {
	if !s.colour {
		return text
	}
	return colour + text + colourNone
}

// tail returns text, cut at its beginning to a width in characters.
func tail(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-width+1:])
}

const (
	// progressAfter is the duration of work after which its progress is shown.
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress shows the progress of long work on a terminal. It is safe for concurrent use.
type progress struct {
	out  io.Writer // nil if the output is not a terminal
	what string

	mu    sync.Mutex
	next  time.Time
	shown bool
}

func newProgress(out io.Writer, what string) *progress {
	p := &progress{what: what, next: time.Now().Add(progressAfter)}
	if isTerminal(out) {
		p.out = out
	}
	return p
}

// at shows that done units of total are finished.
func (p *progress) at(done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.out == nil || now.Before(p.next) {
		return
	}
	p.next, p.shown = now.Add(progressEvery), true
	fmt.Fprintf(p.out, "\r\x1b[K%s: %d of %d (%d %%)", p.what, done, total, 100*done/total)
}

// end erases the progress line.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.out = nil
}
