package child

import (
	"strings"
	"sync"
	"unicode"
)

// Tail keeps the last bytes that were written to it.
type Tail struct {
	mu     sync.Mutex
	limit  int
	kept   []byte // a ring once it has reached the limit
	oldest int    // where the ring starts
}

// NewTail keeps the last limit bytes.
func NewTail(limit int) *Tail { return &Tail{limit: limit} }

// Write implements io.Writer. It never fails.
func (t *Tail) Write(data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	written := len(data)
	data = data[max(0, len(data)-t.limit):]
	room := min(t.limit-len(t.kept), len(data))
	t.kept = append(t.kept, data[:room]...)
	for data = data[room:]; len(data) > 0; {
		n := copy(t.kept[t.oldest:], data)
		t.oldest = (t.oldest + n) % t.limit
		data = data[n:]
	}
	return written, nil
}

// String is what was kept, without the control characters by which a text could speak to a terminal.
func (t *Tail) String() string {
	t.mu.Lock()
	text := string(t.kept[t.oldest:]) + string(t.kept[:t.oldest])
	t.mu.Unlock()
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, text)
}

// LastLines is the end of what was kept: at most n lines that are not empty.
func (t *Tail) LastLines(n int) string {
	var lines []string
	for line := range strings.Lines(t.String()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
