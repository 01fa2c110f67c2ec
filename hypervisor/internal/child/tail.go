package child

import (
	"slices"
	"strings"
	"sync"

	"github.com/limpet-run/limpet/internal/printable"
)

// Tail keeps the last bytes that were written to it.
type Tail struct {
	mu     sync.Mutex
	limit  int
	kept   []byte // a ring once it has reached the limit
	oldest int    // where the ring starts
	total  int64  // how many bytes were written
	more   chan struct{}
}

// NewTail keeps the last limit bytes.
func NewTail(limit int) *Tail { return &Tail{limit: limit} }

// Write implements io.Writer. It never fails.
func (t *Tail) Write(data []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	written := len(data)
	t.total += int64(written)
	if t.more != nil {
		close(t.more)
		t.more = nil
	}
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
	text, _, _ := t.Since(0)
	return text
}

// Since is what was written from an offset on, counted in bytes from the first, as far as it is kept; as String, without control
// characters. It also returns the offset behind it, and a channel that is closed when there is more.
func (t *Tail) Since(offset int64) (text string, end int64, more <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	kept := slices.Concat(t.kept[t.oldest:], t.kept[:t.oldest])
	first := t.total - int64(len(kept))
	kept = kept[min(max(offset-first, 0), int64(len(kept))):]
	if t.more == nil {
		t.more = make(chan struct{})
	}
	return printable.Strip(string(kept)), t.total, t.more
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
