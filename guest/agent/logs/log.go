// Package logs keeps the agent's log and tells it, and the kernel's, to the host.
//
// Who connects is sent one stream frame for each line: first what is kept, then what comes, until it hangs up. A line is a JSON object:
//
//	{"time":"...","level":"DEBUG","msg":"command carried out","source":"agent","command":"exec","trace_id":"..."}
//	{"time":"...","level":"INFO","msg":"random: crng init done","source":"kernel"}
//	{"time":"...","level":"WARN","msg":"lines lost","source":"agent","lines":12}
//
// The lines of each source are in order. Nothing waits for a slow reader: it loses whole lines, the oldest first, and is told how many.
package logs

import (
	"log/slog"
	"sync"
)

// maxKept is how many bytes of lines are kept: some thousand lines.
const maxKept = 256 << 10

// Log keeps the last lines that it was given. Its methods are safe for concurrent use.
type Log struct {
	mu      sync.Mutex
	lines   [][]byte
	size    int           // of the lines, in bytes
	next    uint64        // the number of the line to come
	changed chan struct{} // closed and replaced when a line comes
}

// New makes an empty log.
func New() *Log { return &Log{changed: make(chan struct{})} }

// Handler returns what makes lines of the agent's records, of every level.
func (l *Log) Handler() slog.Handler { return lineHandler(l, "agent") }

// Write takes one line.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, append([]byte(nil), line...))
	l.size += len(line)
	l.next++
	for l.size > maxKept {
		l.size -= len(l.lines[0])
		l.lines[0] = nil
		l.lines = l.lines[1:]
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return len(line), nil
}

// from returns the lines from the one of that number on, how many of them are lost, the number after the last, and what is closed when
// there is more.
func (l *Log) from(number uint64) (lines [][]byte, lost, next uint64, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.next - uint64(len(l.lines))
	if number < oldest {
		lost, number = oldest-number, oldest
	}
	kept := l.lines[number-oldest:]
	return append([][]byte(nil), kept...), lost, l.next, l.changed
}
