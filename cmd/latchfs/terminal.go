package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// isTerminal says that somebody looks at what is written to out.
func isTerminal(out io.Writer) bool {
	file, is := out.(*os.File)
	return is && term.IsTerminal(int(file.Fd()))
}

// style is how what is written looks: plain where nobody looks.
type style struct {
	width  int // columns; 0 is any
	colour bool
}

// styleOf is that of an output. NO_COLOR (no-color.org) and TERM=dumb are heeded.
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

// The colours of verdicts. All take the same space, so that columns stay lined up.
const (
	colourNone   = "\x1b[00m"
	colourRed    = "\x1b[31m"
	colourGreen  = "\x1b[32m"
	colourYellow = "\x1b[33m"
)

// in is text in a colour.
func (s style) in(colour, text string) string {
	if !s.colour {
		return text
	}
	return colour + text + colourNone
}

// tail is text, or as much of its end as fits.
func tail(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return "…" + string(runes[len(runes)-width+1:])
}

const (
	// progressAfter is how long work has to take for its progress to be shown.
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
)

// progress shows on a terminal how far long work has come. Its methods may be called from many goroutines.
type progress struct {
	out  io.Writer // nil if it is no terminal
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

// at tells that done of total is done.
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

// end takes the line away.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	p.out = nil
}
