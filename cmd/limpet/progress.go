package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/limpet-run/limpet/internal/printable"
)

// progress is a line at a terminal that says what is being done; nothing where there is no terminal.
type progress struct {
	file *os.File // nil: there is no terminal

	mu    sync.Mutex
	text  string
	timer *time.Timer
	shown bool
}

func newProgress(file *os.File) *progress {
	if !isTerminal(file) {
		file = nil
	}
	return &progress{file: file}
}

// say tells what is done from now on; empty: nothing.
func (p *progress) say(text string) {
	if p.file == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
	switch {
	case p.shown:
		p.show()
	case p.timer == nil && text != "":
		p.timer = time.AfterFunc(patience, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.show()
		})
	}
}

// show writes the line in place of the one before. The caller holds the lock.
func (p *progress) show() {
	if p.text == "" && !p.shown {
		return
	}
	fmt.Fprintf(p.file, "\r\x1b[K%s", printable.Line(p.text)) // the guest's word may be in it
	p.shown = p.text != ""
}

// done removes the line.
func (p *progress) done() {
	if p.file == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
	p.text = ""
	p.show()
}
